// Kernels against the machine: products against the FMA peak, optimisers and
// activations against memory bandwidth, both measured in the same run. Medians of
// interleaved rounds.
//
//   bench_kernels [--rounds N] [--threads N] [--isa NAME]... [TOPIC]...
//
// Topics: gemm, optimizer, activation; all by default.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/gemm.h"
#include "fastmlp/isa.h"
#include "fastmlp/kernel_table.h"
#include "fastmlp/optimizer.h"
#include "fastmlp/threads.h"
#include "harness.h"

namespace fastmlp {
namespace bench {
namespace {

template <class T>
AlignedBuffer<T> filled(Index n) {
  AlignedBuffer<T> buffer(n);
  for (Index i = 0; i < n; ++i) {
    // Never 0: moments of a zero gradient decay into subnormal numbers, which are slow.
    buffer.data()[i] = (static_cast<T>(i * 37 % 101) - T(50.5)) / T(64);
  }
  return buffer;
}

template <class T>
void bench_gemm(int rounds) {
  std::vector<Case> cases = {peak_case<T>()};
  struct Shape {
    Index m, n, k;
  };
  const Shape shapes[] = {{64, 64, 64},    {128, 128, 128},    {256, 256, 256},
                          {512, 512, 512}, {1024, 1024, 1024}, {2048, 2048, 2048},
                          {128, 512, 784}, {256, 100, 40},     {512, 10, 100}};
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
    // Mean squares must not be negative.
    std::fill_n(s0.data(), n, 1.0f);
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
    const auto add = [&](const std::string& name, const OptimizerConfig& config) {
      const auto slots = slot_names(config);
      std::array<float*, kMaxSlots> state{};
      double moved = 3;  // reads of parameter and gradient, a write of the parameter
      for (size_t i = 0; i < slots.size(); ++i) {
        if (!slots[i]) continue;
        state[i] = (i == 0 ? s0 : s1).data();
        moved += 2;
      }
      cases.push_back({name,
                       [=, &param, &grad] {
                         apply_optimizer<float>(config, 10, param.data(), state,
                                                grad.data(), n);
                       },
                       moved * bytes});
    };
    OptimizerConfig config;
    config.lr = 1e-6;
    for (size_t i = 0; i < std::size(kOptimizerNames); ++i) {
      config.kind = static_cast<OptimizerKind>(i);
      add(kOptimizerNames[i], config);
    }
    config.kind = OptimizerKind::sgd;
    config.momentum = 0.9;
    add("sgd momentum", config);
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
  std::vector<Case> cases;
  for (int i = 0; i < kActivationCount; ++i) {
    const auto kind = static_cast<Activation>(i);
    cases.push_back({std::string(kActivationNames[i]) + " forward",
                     [&, kind] {
                       kernels<float>().activation_forward(
                           kind, y.data(), kCols, x.data(), kCols, kRows, kCols);
                     },
                     kRows * kCols});
    cases.push_back({std::string(kActivationNames[i]) + " backward",
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
}  // namespace bench
}  // namespace fastmlp

int main(int argc, char** argv) {
  using namespace fastmlp;
  using namespace fastmlp::bench;
  Options options = parse(argc, argv);
  if (options.names.empty()) options.names = {"gemm", "optimizer", "activation"};
  for (const std::string& isa : options.isas) {
    set_active_isa(isa);
    for (const std::string& topic : options.names) {
      if (topic == "gemm") {
        bench_gemm<float>(options.rounds);
        bench_gemm<double>(options.rounds);
      } else if (topic == "optimizer") {
        bench_optimizer(options.rounds);
      } else if (topic == "activation") {
        bench_activation(options.rounds);
      } else {
        std::fprintf(stderr, "unknown topic %s\n", topic.c_str());
        return 2;
      }
    }
  }
  return 0;
}
