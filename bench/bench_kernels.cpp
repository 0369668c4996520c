// How far from the machine: products against the FMA peak, optimisers and activations
// against memory bandwidth, both measured in the same run. Medians of interleaved
// rounds.
//
//   bench_kernels [--rounds N] [--threads N] [--isa NAME]... [TOPIC]...
//
// Topics: gemm, optimizer, activation; all of them if none is named.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/gemm.h"
#include "fastmlp/isa.h"
#include "fastmlp/kernel_table.h"
#include "fastmlp/optimizer.h"
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

namespace {

using Clock = std::chrono::steady_clock;

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
      return pick(avx512::peak_f32, avx512::peak_f64);
#endif
    default:
      return pick(scalar::peak_f32, scalar::peak_f64);
  }
}

double seconds(const std::function<void()>& work, int repeats) {
  const auto start = Clock::now();
  for (int i = 0; i < repeats; ++i) work();
  return std::chrono::duration<double>(Clock::now() - start).count() / repeats;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct Case {
  std::string name;
  std::function<void()> work;
  double amount;  // operations, bytes or elements per call
  std::vector<double> times = {};
};

// Times every case in turn, `rounds` times over.
void measure(std::vector<Case>& cases, int rounds) {
  constexpr double kBurst = 0.02;  // seconds
  for (int round = 0; round < rounds; ++round) {
    for (Case& c : cases) {
      const double once = seconds(c.work, 1);  // also warms up
      const int repeats = static_cast<int>(std::clamp(kBurst / once, 1.0, 1e5));
      c.times.push_back(seconds(c.work, repeats));
    }
  }
}

template <class T>
AlignedBuffer<T> filled(Index n) {
  AlignedBuffer<T> buffer(n);
  for (Index i = 0; i < n; ++i) {
    buffer.data()[i] = static_cast<T>((i * 37 % 101) - 50) / static_cast<T>(64);
  }
  return buffer;
}

template <class T>
void bench_gemm(int rounds) {
  constexpr Index kPeakSteps = 200000;
  std::vector<Case> cases;
  const double peak_ops = run_peak<T>(1) * kPeakSteps;
  cases.push_back({"FMA peak", [] { run_peak<T>(kPeakSteps); }, peak_ops});
  struct Shape {
    Index m, n, k;
  };
  const Shape shapes[] = {{64, 64, 64},    {128, 128, 128},    {256, 256, 256},
                          {512, 512, 512}, {1024, 1024, 1024}, {128, 512, 784},
                          {256, 100, 40},  {512, 10, 100}};
  std::vector<AlignedBuffer<T>> keep;
  for (const auto& [m, n, k] : shapes) {
    keep.push_back(filled<T>(m * n));
    T* c = keep.back().data();
    keep.push_back(filled<T>(m * k));
    const T* a = keep.back().data();
    keep.push_back(filled<T>(k * n));
    const T* b = keep.back().data();
    const std::string shape =
        std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
    const double ops = 2.0 * static_cast<double>(m * n * k);
    cases.push_back({"nn " + shape,
                     [=, m = m, n = n, k = k] {
                       gemm_nn<T>({c, m, n, n}, {a, m, k, k}, {b, k, n, n}, nullptr,
                                  false);
                     },
                     ops});
    cases.push_back({"nt " + shape,
                     [=, m = m, n = n, k = k] {
                       gemm_nt<T>({c, m, n, n}, {a, m, k, k}, {b, n, k, k}, false);
                     },
                     ops});
    cases.push_back({"tn " + shape,
                     [=, m = m, n = n, k = k] {
                       gemm_tn<T>({c, m, n, n}, {a, k, m, m}, {b, k, n, n}, false);
                     },
                     ops});
  }
  measure(cases, rounds);
  const double peak = cases[0].amount / median(cases[0].times) * num_threads();
  for (const Case& c : cases) {
    const double rate = c.amount / median(c.times);
    std::printf("%-8s %-4s %-22s %8.1f GFLOP/s %6.1f %% of peak\n",
                isa_name(active_isa()), sizeof(T) == 4 ? "f32" : "f64", c.name.c_str(),
                rate / 1e9, 100 * rate / (&c == &cases[0] ? rate : peak));
  }
}

void bench_optimizer(int rounds) {
  for (const Index n : {Index{4096}, Index{65536}, Index{1 << 20}, Index{10'000'000}}) {
    const auto param = filled<float>(n), grad = filled<float>(n);
    const auto s0 = filled<float>(n), s1 = filled<float>(n);
    const auto from = filled<float>(n * 7 / 2), to = filled<float>(n * 7 / 2);
    std::fill_n(s1.data(), n, 1.0f);
    const double bytes = sizeof(float) * static_cast<double>(n);
    std::vector<Case> cases;
    // Adam moves 7 elements per parameter: a copy of 3.5 n elements moves as many.
    cases.push_back({"copy",
                     [&] {
                       std::memcpy(to.data(), from.data(),
                                   sizeof(float) * static_cast<size_t>(n * 7 / 2));
                     },
                     7 * bytes});
    const auto add = [&](const char* name, OptimizerKind kind, double momentum,
                         double vectors) {
      OptimizerConfig config;
      config.kind = kind;
      config.lr = 1e-6;
      config.momentum = momentum;
      cases.push_back({name,
                       [=, &param, &grad, &s0, &s1] {
                         const bool adam = kind == OptimizerKind::adam;
                         const bool slot = momentum != 0 || kind != OptimizerKind::sgd;
                         apply_optimizer<float>(
                             config, 10, param.data(),
                             {slot ? (adam ? s0.data() : s1.data()) : nullptr,
                              adam ? s1.data() : nullptr, nullptr},
                             grad.data(), n);
                       },
                       vectors * bytes});
    };
    add("sgd", OptimizerKind::sgd, 0.0, 3);
    add("sgd momentum", OptimizerKind::sgd, 0.9, 5);
    add("adagrad", OptimizerKind::adagrad, 0.0, 5);
    add("rmsprop", OptimizerKind::rmsprop, 0.0, 5);
    add("adam", OptimizerKind::adam, 0.0, 7);
    measure(cases, rounds);
    const double copy = cases[0].amount / median(cases[0].times);
    for (const Case& c : cases) {
      const double t = median(c.times);
      std::printf(
          "%-8s f32  %-14s n=%-9td %7.3f ns/parameter %7.1f GB/s %6.1f %% of copy\n",
          isa_name(active_isa()), c.name.c_str(), n, 1e9 * t / static_cast<double>(n),
          c.amount / t / 1e9, 100 * c.amount / t / copy);
    }
  }
}

void bench_activation(int rounds) {
  constexpr Index kRows = 64, kCols = 64;  // stays in the first-level cache
  const auto x = filled<float>(kRows * kCols), y = filled<float>(kRows * kCols);
  const auto d = filled<float>(kRows * kCols);
  const char* names[] = {"identity", "relu",     "leaky_relu", "elu",
                         "selu",     "gelu",     "gelu_tanh",  "silu",
                         "softplus", "softsign", "sigmoid",    "tanh",
                         "sin",      "cos",      "exp",        "softmax"};
  std::vector<Case> cases;
  for (int i = 0; i < kActivationCount; ++i) {
    const auto kind = static_cast<Activation>(i);
    cases.push_back({std::string(names[i]) + " forward",
                     [&, kind] {
                       kernels<float>().activation_forward(
                           kind, y.data(), kCols, x.data(), kCols, kRows, kCols);
                     },
                     kRows * kCols});
    cases.push_back({std::string(names[i]) + " backward",
                     [&, kind] {
                       kernels<float>().activation_backward(kind, d.data(), kCols,
                                                            x.data(), kCols, x.data(),
                                                            kCols, kRows, kCols);
                     },
                     kRows * kCols});
  }
  measure(cases, rounds);
  for (const Case& c : cases) {
    std::printf("%-8s f32  %-20s %7.3f ns/element\n", isa_name(active_isa()),
                c.name.c_str(), 1e9 * median(c.times) / c.amount);
  }
}

}  // namespace
}  // namespace fastmlp

int main(int argc, char** argv) {
  using namespace fastmlp;
  int rounds = 7, threads = 1;
  std::vector<std::string> isas, topics;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&] {
      if (++i < argc) return argv[i];
      std::fprintf(stderr, "%s needs a value\n", arg.c_str());
      std::exit(2);
    };
    if (arg == "--rounds") {
      rounds = std::max(1, std::atoi(value()));
    } else if (arg == "--threads") {
      threads = std::max(1, std::atoi(value()));
    } else if (arg == "--isa") {
      isas.push_back(value());
    } else {
      topics.push_back(arg);
    }
  }
  if (topics.empty()) topics = {"gemm", "optimizer", "activation"};
  if (isas.empty()) {
    for (const Isa isa : available_isas()) {
      if (isa != Isa::scalar) isas.push_back(isa_name(isa));
    }
    if (isas.empty()) isas.push_back("scalar");
  }
  set_num_threads(threads);
  std::printf("threads %d, rounds %d\n", threads, rounds);
  for (const std::string& isa : isas) {
    set_active_isa(isa);
    for (const std::string& topic : topics) {
      if (topic == "gemm") {
        bench_gemm<float>(rounds);
        bench_gemm<double>(rounds);
      } else if (topic == "optimizer") {
        bench_optimizer(rounds);
      } else if (topic == "activation") {
        bench_activation(rounds);
      } else {
        std::fprintf(stderr, "unknown topic %s\n", topic.c_str());
        return 2;
      }
    }
  }
  return 0;
}
