// Errors of every elementary function and elementwise activation in float, and the laws
// that they keep, over the bit patterns of all floats. Prints a table.
//
//   sweep_floats                  every 509th float, in seconds
//   sweep_floats --all [threads]  every float, in minutes
//   sweep_floats --isa scalar ... with another instruction set than the best one
//
// Subnormal numbers count as 0, as everywhere in the core. The reference is the same
// function in double, whose errors, some 1e-9 ULP of a float, test_math bounds against
// long double. Exit status 1: a bound or a law is broken.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fastmlp/fp_environment.h"
#include "fastmlp/isa.h"
#include "fastmlp/kernel_table.h"

namespace {

using namespace fastmlp;

constexpr double kSmallest = 0x1p-126;  // of the normal numbers
// Rounding decides about results that are close to it.
constexpr double kMaybeFlushed = 1.0001 * kSmallest;
// In the tails of silu and gelu, x times a factor below kSmallest is flushed to 0.
constexpr double kTail = 0x1p-96;

// A law may hold up to some ULP: neighbours of ascending functions whose values are
// rounded separately can be out of order by the error of either.
struct Function {
  const char* name;
  bool is_activation;
  int kind;
  double bound;   // the largest allowed error in ULP
  int symmetry;   // 1: even, -1: odd, 0: neither
  double rising;  // ascending where x > rising, but for `dip` ULP
  double dip;
  double low, high;  // the range of the function
  // Errors of smaller results are counted in ULP of this number.
  double floor = kSmallest;
};

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNever = kInf;

#define ELEMENTARY(name) #name, false, static_cast<int>(Elementary::name)
#define ACTIVATION(name) #name, true, static_cast<int>(Activation::name)
const Function kFunctions[] = {
    {ELEMENTARY(exp), 1.1, 0, -kInf, 0, 0, kInf},
    {ELEMENTARY(expm1), 1.7, 0, -kInf, 0, -1, kInf},
    {ELEMENTARY(log), 0.95, 0, 0, 0, -kInf, kInf},
    {ELEMENTARY(log1p), 1.5, 0, -1, 0, -kInf, kInf},
    {ELEMENTARY(tanh), 1.85, -1, -kInf, 2, -1, 1},
    {ELEMENTARY(sigmoid), 1.7, 0, -kInf, 1, 0, 1},
    {ELEMENTARY(sin), 1.6, -1, kNever, 0, -1, 1},
    {ELEMENTARY(cos), 1.6, 1, kNever, 0, -1, 1},
    {ELEMENTARY(erf), 1.95, -1, -kInf, 1, -1, 1},
    {ELEMENTARY(erfc), 3.8, 0, kNever, 0, 0, 2},
    {ACTIVATION(identity), 0, -1, -kInf, 0, -kInf, kInf},
    {ACTIVATION(relu), 0, 0, -kInf, 0, 0, kInf},
    {ACTIVATION(leaky_relu), 1, 0, -kInf, 0, -kInf, kInf},
    {ACTIVATION(relu6), 0, 0, -kInf, 0, 0, 6},
    {ACTIVATION(threshold), 0, 0, -kInf, 0, 0, kInf},
    {ACTIVATION(elu), 4, 0, -kInf, 0, -1, kInf},
    {ACTIVATION(celu), 4, 0, -kInf, 0, -1, kInf},
    {ACTIVATION(selu), 4, 0, -kInf, 0, -1.76, kInf},
    {ACTIVATION(gelu), 200, 0, -0.75, 5, -0.17, kInf, kTail},
    {ACTIVATION(gelu_tanh), 5, 0, -0.75, 1, -0.171, kInf, 0.5},
    {ACTIVATION(silu), 4, 0, -1.27, 2, -0.2785, kInf, kTail},
    {ACTIVATION(hardswish), 4, 0, -1.5, 2, -0.376, kInf, 0.5},
    {ACTIVATION(mish), 4, 0, -1.19, 3, -0.309, kInf, kTail},
    {ACTIVATION(softplus), 4, 0, -kInf, 2, 0, kInf},
    {ACTIVATION(logsigmoid), 4, 0, -kInf, 2, -kInf, 0},
    {ACTIVATION(softsign), 4, -1, -kInf, 2, -1, 1},
    {ACTIVATION(sigmoid), 1.7, 0, -kInf, 1, 0, 1},
    {ACTIVATION(hardsigmoid), 1.5, 0, -kInf, 1, 0, 1, 0.5},
    {ACTIVATION(tanh), 1.85, -1, -kInf, 2, -1, 1},
    {ACTIVATION(hardtanh), 0, -1, -kInf, 0, -1, 1},
    // z - tanh z loses digits just above the range of the series.
    {ACTIVATION(tanhshrink), 80, -1, kNever, 0, -kInf, kInf},
    {ACTIVATION(softshrink), 1, 0, -kInf, 0, -kInf, kInf},
    {ACTIVATION(hardshrink), 0, 0, -kInf, 0, -kInf, kInf},
    {ACTIVATION(sin), 1.6, -1, kNever, 0, -1, 1},
    {ACTIVATION(cos), 1.6, 1, kNever, 0, -1, 1},
    {ACTIVATION(exp), 1.1, 0, -kInf, 0, 0, kInf},
};

template <class T>
void apply(const Function& f, T* out, const T* x, Index n) {
  const CoreFpEnvironment environment;
  const KernelTable<T>& table = kernels<T>();
  if (f.is_activation) {
    table.activation_forward(static_cast<Activation>(f.kind), out, n, x, n, 1, n);
  } else {
    table.elementary(static_cast<Elementary>(f.kind), out, x, n);
  }
}

struct Found {
  double ulp = 0, dip = 0;
  float ulp_at = 0, dip_at = 0, law_at = 0;
  int64_t broken = 0;  // violations of symmetry, range or NaN

  void merge(const Found& other) {
    if (other.ulp > ulp) ulp = other.ulp, ulp_at = other.ulp_at;
    if (other.dip > dip) dip = other.dip, dip_at = other.dip_at;
    if (other.broken > 0 && broken == 0) law_at = other.law_at;
    broken += other.broken;
  }
};

template <class To, class From>
To bit_cast(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

// Infinity counts as 2^128, so that an infinite result next to the largest number has a
// small error.
double capped(double x) {
  const double below = x < 0x1p128 ? x : 0x1p128;
  return below > -0x1p128 ? below : -0x1p128;
}

// The spacing of floats at a number, or at `floor` if that is larger.
double spacing(double x, double floor) {
  const double power = bit_cast<double>(bit_cast<uint64_t>(x) & 0x7FF0000000000000u);
  const double below = power < 0x1p127 ? power : 0x1p127;
  return 0x1p-23 * (below > floor ? below : floor);
}

constexpr int kBlock = 4096;

// The loops below have no branches, so that compilers can vectorise them.
struct Sweep {
  const Function& f;
  Found found;
  float x[kBlock], y[kBlock], opposite[kBlock];
  double exact_x[kBlock], exact[kBlock], error[kBlock], fall[kBlock];
  uint32_t pattern[kBlock];
  // The last results of the previous block, of positive and of negative numbers.
  float last[2];
  bool begun = false;

  explicit Sweep(const Function& function) : f(function) {}

  static int argmax(const double* values, int n) {
    return static_cast<int>(std::max_element(values, values + n) - values);
  }

  void check_errors(int n) {
    double worst = 0;
    int64_t broken = 0;
    for (int i = 0; i < n; ++i) {
      const double got = y[i], want = exact[i];
      // Copies of subnormal numbers stay, results of arithmetic are flushed.
      const bool flushed =
          (std::fabs(want) < kMaybeFlushed) & (std::fabs(got) < kMaybeFlushed);
      const double e = std::fabs(capped(got) - capped(flushed ? got : want)) /
                       spacing(want, f.floor);
      const bool no_number = want != want;
      broken += (no_number != (got != got)) | (got < f.low) | (got > f.high);
      error[i] = no_number ? 0 : e;
      worst = error[i] > worst ? error[i] : worst;
    }
    if (worst > found.ulp) found.ulp = worst, found.ulp_at = x[argmax(error, n)];
    if (broken > 0 && found.broken == 0) found.law_at = x[0];
    found.broken += broken;
  }

  void check_symmetry(int n) {
    const float sign = static_cast<float>(f.symmetry);
    int64_t broken = 0;
    for (int i = 0; i < n; ++i) {
      const float mirrored = sign * opposite[i];
      broken += (bit_cast<uint32_t>(mirrored) != bit_cast<uint32_t>(y[i])) &
                ((mirrored == mirrored) | (y[i] == y[i]));
    }
    if (broken > 0 && found.broken == 0) found.law_at = x[0];
    found.broken += broken;
  }

  // Patterns are in the order of x for positive and in its reverse for negative numbers.
  void check_order(int n, bool negative) {
    float previous = begun ? last[negative] : y[0];
    last[negative] = y[n - 1];
    const double sign = negative ? -1 : 1;
    double worst = 0;
    for (int i = 0; i < n; ++i) {
      const double step = sign * (capped(i > 0 ? y[i - 1] : previous) - capped(y[i]));
      fall[i] = (x[i] > f.rising) & (step > 0) ? step / spacing(exact[i], f.floor) : 0;
      worst = fall[i] > worst ? fall[i] : worst;
    }
    if (worst > found.dip) found.dip = worst, found.dip_at = x[argmax(fall, n)];
  }

  void block(int n) {
    for (const bool negative : {false, true}) {
      const uint32_t sign = negative ? 0x80000000u : 0;
      for (int i = 0; i < n; ++i) {
        x[i] = bit_cast<float>(pattern[i] | sign);
        // The core takes a subnormal number as 0.
        exact_x[i] = std::fabs(x[i]) < kSmallest ? std::copysign(0.0, x[i]) : x[i];
      }
      if (negative) std::copy(y, y + n, opposite);
      apply(f, y, x, n);
      apply(f, exact, exact_x, n);
      check_errors(n);
      if (negative && f.symmetry != 0) check_symmetry(n);
      if (f.rising < kNever) check_order(n, negative);
    }
    begun = true;
  }
};

// Takes the patterns first, first + step, ... below last and the negatives of these
// numbers.
Found sweep(const Function& f, uint32_t first, uint32_t last, uint32_t step) {
  const auto state = std::make_unique<Sweep>(f);
  for (uint64_t next = first; next < last;) {
    int n = 0;
    for (; n < kBlock && next < last; next += step) {
      state->pattern[n++] = static_cast<uint32_t>(next);
    }
    state->block(n);
  }
  return state->found;
}

// All floats but NaN are examined in slices, one at a time for each thread.
Found sweep_all(const Function& f, uint32_t step, int n_threads) {
  constexpr uint32_t kEnd = 0x7F800001;  // the pattern after infinity
  constexpr uint32_t kSlices = 64;
  constexpr uint32_t kSize = kEnd / kSlices + 1;
  std::vector<Found> found(kSlices);
  std::vector<std::thread> threads;
  for (int t = 0; t < n_threads; ++t) {
    threads.emplace_back([&, t] {
      for (uint32_t s = static_cast<uint32_t>(t); s < kSlices;
           s += static_cast<uint32_t>(n_threads)) {
        // A slice begins with the last number of the previous one, to compare both.
        const uint32_t first = (s * kSize + step - 1) / step * step;
        found[s] =
            sweep(f, first - (s > 0 ? step : 0), std::min(kEnd, (s + 1) * kSize), step);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Found total;
  for (const Found& part : found) total.merge(part);
  if (step > 1) total.merge(sweep(f, kEnd - 1, kEnd, 1));  // infinity
  total.merge(sweep(f, 0x7FC00000, 0x7FC00001, 1));        // NaN
  return total;
}

}  // namespace

int main(int argc, char** argv) {
  bool all = false;
  int n_threads = static_cast<int>(std::thread::hardware_concurrency());
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
      set_active_isa(argv[++i]);
    } else if (std::strcmp(argv[i], "--all") == 0) {
      all = true;
    } else {
      n_threads = std::atoi(argv[i]);
    }
  }
  n_threads = std::max(1, n_threads);
  std::printf("%s, %s\n%-22s%10s  %-16s%10s\n", isa_name(active_isa()),
              all ? "all floats" : "every 509th float", "function", "ULP", "at",
              "dip, ULP");
  int failures = 0;
  for (const Function& f : kFunctions) {
    const Found found = sweep_all(f, all ? 1 : 509, n_threads);
    const bool good = found.ulp <= f.bound && found.dip <= f.dip && found.broken == 0;
    const std::string name = std::string(f.is_activation ? "activation " : "") + f.name;
    std::printf("%-22s%10.4f  %-16a", name.c_str(), found.ulp,
                static_cast<double>(found.ulp_at));
    if (f.rising < kInf) {
      std::printf("%10.2f", found.dip);
      if (found.dip > 0) std::printf(" at %a", static_cast<double>(found.dip_at));
    }
    if (found.broken > 0) {
      std::printf("  laws broken %llu times, first at %a",
                  static_cast<unsigned long long>(found.broken),
                  static_cast<double>(found.law_at));
    }
    std::printf(good ? "\n" : "  FAILED\n");
    std::fflush(stdout);
    failures += !good;
  }
  return failures > 0 ? 1 : 0;
}
