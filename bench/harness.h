// Shared code of the C++ benchmarks: the FMA peak of the active instruction set, and
// medians of interleaved rounds.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "fastmlp/isa.h"
#include "fastmlp/threads.h"

namespace fastmlp {

#define BENCH_DECLARE_PEAK(isa)               \
  namespace isa {                             \
  double peak_f32(Index steps, float* sink);  \
  double peak_f64(Index steps, double* sink); \
  }
BENCH_DECLARE_PEAK(scalar)
#ifdef BENCH_HAVE_neon
BENCH_DECLARE_PEAK(neon)
#endif
#ifdef BENCH_HAVE_avx2
BENCH_DECLARE_PEAK(avx2)
#endif
#ifdef BENCH_HAVE_avx512
BENCH_DECLARE_PEAK(avx512)
#endif

namespace bench {

using Clock = std::chrono::steady_clock;

// Runs independent chains of FMAs in registers; returns the number of operations.
template <class T>
double run_peak(Index steps) {
  T sink[64];
  const auto pick = [&](auto f32, auto f64) {
    if constexpr (std::is_same_v<T, float>) {
      return f32(steps, sink);
    } else {
      return f64(steps, sink);
    }
  };
  switch (active_isa()) {
#ifdef BENCH_HAVE_neon
    case Isa::neon:
      return pick(neon::peak_f32, neon::peak_f64);
#endif
#ifdef BENCH_HAVE_avx2
    case Isa::avx2:
      return pick(avx2::peak_f32, avx2::peak_f64);
#endif
#ifdef BENCH_HAVE_avx512
    case Isa::avx512:
    case Isa::avx512_bf16:  // the same instructions for float and double
    case Isa::amx:
      return pick(avx512::peak_f32, avx512::peak_f64);
#endif
    default:
      return pick(scalar::peak_f32, scalar::peak_f64);
  }
}

inline double seconds(const std::function<void()>& work, int repeats) {
  const auto start = Clock::now();
  for (int i = 0; i < repeats; ++i) work();
  return std::chrono::duration<double>(Clock::now() - start).count() / repeats;
}

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct Case {
  std::string name;
  std::function<void()> work;
  double amount;  // operations, bytes or elements per call
  std::vector<double> times = {};
};

// Times the cases in turn, for `rounds` rounds.
inline void measure(std::vector<Case>& cases, int rounds) {
  constexpr double kBurst = 0.02;  // seconds
  for (int round = 0; round < rounds; ++round) {
    for (Case& c : cases) {
      const double once = seconds(c.work, 1);  // also warms up
      const int repeats = static_cast<int>(std::clamp(kBurst / once, 1.0, 1e5));
      c.times.push_back(seconds(c.work, repeats));
    }
  }
}

// The baseline of the other cases.
template <class T>
Case peak_case() {
  constexpr Index kSteps = 200000;
  return {"FMA peak", [] { run_peak<T>(kSteps); }, run_peak<T>(1) * kSteps};
}

struct Options {
  int rounds = 7, threads = 1;
  std::vector<std::string> isas;
  std::vector<std::string> names;  // arguments that are not options
};

// [--rounds N] [--threads N] [--isa NAME]... [NAME]...
// Without --isa: all of the CPU's except the portable one.
inline Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&] {
      if (++i < argc) return argv[i];
      std::fprintf(stderr, "%s needs a value\n", arg.c_str());
      std::exit(2);
    };
    if (arg == "--rounds") {
      options.rounds = std::max(1, std::atoi(value()));
    } else if (arg == "--threads") {
      options.threads = std::max(1, std::atoi(value()));
    } else if (arg == "--isa") {
      options.isas.push_back(value());
    } else {
      options.names.push_back(arg);
    }
  }
  if (options.isas.empty()) {
    for (const Isa isa : available_isas()) {
      if (isa != Isa::scalar) options.isas.push_back(isa_name(isa));
    }
    if (options.isas.empty()) options.isas.push_back("scalar");
  }
  set_num_threads(options.threads);
  std::printf("threads %d, rounds %d\n", options.threads, options.rounds);
  return options;
}

}  // namespace bench
}  // namespace fastmlp
