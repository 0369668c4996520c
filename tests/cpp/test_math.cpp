// Accuracy, identities and bits of math-inl.h.  Compiled once per instruction set, like
// a kernel.  Prints the worst error of each function and a hash of all results, which
// is used to compare instruction sets.  Exit status: 0 success, 1 violation, 77 the CPU
// lacks the instruction set.
//
//   test_math                        a few million points, seconds
//   test_math --exhaustive [name]    every float, of every function or of one

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "math-inl.h"
#include "simd.h"
#if defined(FASTMLP_ISA_avx2) || defined(FASTMLP_ISA_avx512)
#include "dispatch/x86.h"
#endif

namespace {

using fastmlp::Index;
namespace isa = fastmlp::FASTMLP_ISA;

#define FASTMLP_STRING_(x) #x
#define FASTMLP_STRING(x) FASTMLP_STRING_(x)

// Where long double is double, the reference itself is off by up to about one ULP.
constexpr double kReferenceSlack = LDBL_MANT_DIG >= 64 ? 0.0 : 1.0;

// Step of the loop over float bit patterns: a prime, so that all mantissas and signs
// occur.
constexpr uint64_t kFloatStride = 4093;
constexpr int kDenseFloats = 1000000;
constexpr int kDenseDoubles = 100000;

// --- functions under test ------------------------------------------------------------

// Largest allowed errors in ULP, and the interval where most of the points belong.
// The comment above each function in math-inl.h states the same bounds.
#define FASTMLP_FUNCTIONS(X)                  \
  X(exp, 1.1, 1.1, -104, 89, -746, 710)       \
  X(expm1, 1.7, 2.0, -18, 89, -38, 710)       \
  X(log, 0.95, 0.9, 0, 8, 0, 8)               \
  X(log1p, 1.5, 1.5, -1, 8, -1, 8)            \
  X(log1p01, 1.1, 1.1, 0, 1, 0, 1)            \
  X(tanh, 1.85, 1.95, -9.5, 9.5, -19.5, 19.5) \
  X(sigmoid, 1.7, 1.7, -104, 18, -746, 38)    \
  X(sin, 1.6, 1.6, -400, 400, -400, 400)      \
  X(cos, 1.6, 1.6, -400, 400, -400, 400)      \
  X(erf, 1.95, 1.8, -4, 4, -6, 6)             \
  X(erfc, 3.8, 4.5, -4, 10.2, -6, 27.3)

template <class R>
R reference_exp(R x) {
  return std::exp(x);
}
template <class R>
R reference_expm1(R x) {
  return std::expm1(x);
}
template <class R>
R reference_log(R x) {
  return std::log(x);
}
template <class R>
R reference_log1p(R x) {
  return std::log1p(x);
}
template <class R>
R reference_log1p01(R x) {
  return std::log1p(x);
}
template <class R>
R reference_tanh(R x) {
  return std::tanh(x);
}
template <class R>
R reference_sigmoid(R x) {
  const R e = std::exp(-std::fabs(x));
  return (x < 0 ? e : R(1)) / (R(1) + e);
}
template <class R>
R reference_sin(R x) {
  return std::sin(x);
}
template <class R>
R reference_cos(R x) {
  return std::cos(x);
}
template <class R>
R reference_erf(R x) {
  return std::erf(x);
}
template <class R>
R reference_erfc(R x) {
  return std::erfc(x);
}

template <class T>
struct Reference;
template <>
struct Reference<float> {
  using type = double;
  using bits = uint32_t;
  static constexpr char kName[] = "float";
};
template <>
struct Reference<double> {
  using type = long double;
  using bits = uint64_t;
  static constexpr char kName[] = "double";
};

template <class T>
struct Function {
  const char* name;
  void (*run)(const T* x, T* y, Index n);
  typename Reference<T>::type (*reference)(typename Reference<T>::type);
  double bound;
  double low, high;
};

// Whole vectors, then the rest by a partial load, as in the kernels.
#define FASTMLP_RUN(name)                                                      \
  template <class T>                                                           \
  void run_##name(const T* x, T* y, Index n) {                                 \
    using V = isa::Vec<T>;                                                     \
    Index i = 0;                                                               \
    for (; i + V::kLanes <= n; i += V::kLanes) {                               \
      isa::v##name(V::load(x + i)).store(y + i);                               \
    }                                                                          \
    if (i < n) {                                                               \
      isa::v##name(V::load_partial(x + i, n - i)).store_partial(y + i, n - i); \
    }                                                                          \
  }
#define FASTMLP_RUN_ENTRY(name, ...) FASTMLP_RUN(name)
FASTMLP_FUNCTIONS(FASTMLP_RUN_ENTRY)
FASTMLP_RUN(exp_nonpositive)

#define FASTMLP_FLOAT_ROW(name, ulp_f, ulp_d, low_f, high_f, low_d, high_d) \
  {#name, run_##name<float>, reference_##name<double>, ulp_f, low_f, high_f},
#define FASTMLP_DOUBLE_ROW(name, ulp_f, ulp_d, low_f, high_f, low_d, high_d) \
  {#name, run_##name<double>, reference_##name<long double>, ulp_d, low_d, high_d},

const Function<float> kFloatFunctions[] = {FASTMLP_FUNCTIONS(FASTMLP_FLOAT_ROW)};
const Function<double> kDoubleFunctions[] = {FASTMLP_FUNCTIONS(FASTMLP_DOUBLE_ROW)};

template <class T>
bool in_domain(const Function<T>& f, T x) {
  return std::strcmp(f.name, "log1p01") != 0 || (x >= 0 && x <= 1);
}

// --- tools ---------------------------------------------------------------------------

int failures = 0;

struct Fnv {
  uint64_t state = 0xCBF29CE484222325u;

  void add(uint64_t word, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
      state = (state ^ ((word >> (8 * i)) & 0xFFu)) * 0x100000001B3u;
    }
  }
};

// The generator of Steele, Lea and Flood, 2014 (SplitMix64).
struct Random {
  uint64_t state;

  uint64_t next() {
    state += 0x9E3779B97F4A7C15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
};

template <class T>
typename Reference<T>::bits bits_of(T x) {
  typename Reference<T>::bits b;
  std::memcpy(&b, &x, sizeof b);
  return b;
}
template <class T>
T from_bits_of(typename Reference<T>::bits b) {
  T x;
  std::memcpy(&x, &b, sizeof x);
  return x;
}

// |got - want| in units of the spacing of T at want.  Infinities are taken to be
// 2^emax, so that an infinite result close to the largest number has a small error.
template <class T>
double ulp_error(T got, typename Reference<T>::type want) {
  using R = typename Reference<T>::type;
  using L = std::numeric_limits<T>;
  if (std::isnan(want) || std::isnan(got)) {
    return std::isnan(want) && std::isnan(got) ? 0.0 : HUGE_VAL;
  }
  const R cap = std::ldexp(R(1), L::max_exponent);
  const R w = std::fmin(std::fmax(want, -cap), cap);
  const R g = std::fmin(std::fmax(R(got), -cap), cap);
  if (g == w) return 0.0;
  int exponent = 0;
  std::frexp(std::fabs(w) < cap ? w : cap / 2, &exponent);
  if (exponent < L::min_exponent) exponent = L::min_exponent;
  return static_cast<double>(std::ldexp(std::fabs(g - w), L::digits - exponent));
}

template <class T>
struct Worst {
  double ulp = 0.0;
  T at = T(0);
};

template <class T>
void check(const Function<T>& f, const std::vector<T>& x, Worst<T>* worst, Fnv* hash) {
  std::vector<T> y(x.size());
  f.run(x.data(), y.data(), static_cast<Index>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    const T canonical = std::isnan(y[i]) ? std::numeric_limits<T>::quiet_NaN() : y[i];
    hash->add(bits_of(canonical), sizeof(T));
    const double error = ulp_error(y[i], f.reference(x[i]));
    if (error > worst->ulp) *worst = {error, x[i]};
  }
}

template <class T>
void report(const Function<T>& f, const Worst<T>& worst) {
  const double bound = f.bound + (sizeof(T) == 8 ? kReferenceSlack : 0.0);
  const bool good = worst.ulp <= bound;
  std::printf("%-8s %-6s max %.3f ulp (<= %.2f) at %a%s\n", f.name, Reference<T>::kName,
              worst.ulp, bound, static_cast<double>(worst.at), good ? "" : "  FAILED");
  if (!good) ++failures;
}

template <class T>
T value(void (*run)(const T*, T*, Index), T x) {
  T y;
  run(&x, &y, 1);
  return y;
}

template <class T>
void expect(const char* name, T x, T got, T want) {
  if (bits_of(got) == bits_of(want) || (std::isnan(got) && std::isnan(want))) return;
  std::printf("%s(%a) is %a, not %a (%s)  FAILED\n", name, static_cast<double>(x),
              static_cast<double>(got), static_cast<double>(want), Reference<T>::kName);
  ++failures;
}

// Prints a line for each violated identity: its first argument and their number.
struct Law {
  const char* what;
  const char* type;
  int broken = 0;
  double first = 0.0;

  void check(bool holds, double x) {
    if (!holds && broken++ == 0) first = x;
  }
  ~Law() {
    if (broken == 0) return;
    std::printf("%s (%s) is broken %d times, first at %a  FAILED\n", what, type, broken,
                first);
    ++failures;
  }
};

// --- points --------------------------------------------------------------------------

template <class T>
std::vector<T> special_points() {
  using L = std::numeric_limits<T>;
  std::vector<T> points;
  const T base[] = {T(0), L::denorm_min(), 3 * L::denorm_min(), L::min() / 2, L::min(),
                    L::epsilon() / 4, L::epsilon(), T(0.5), T(1), T(2), L::max() / 2,
                    L::max(), L::infinity(),
                    // where exp overflows, becomes subnormal and underflows to 0
                    T(sizeof(T) == 4 ? 88.722839 : 709.78271289338397),
                    T(sizeof(T) == 4 ? 87.336548 : 708.39641853226408),
                    T(sizeof(T) == 4 ? 103.97208 : 745.13321910194122),
                    // where tanh and erf become 1
                    T(sizeof(T) == 4 ? 9.0109129 : 19.061547465398498),
                    T(sizeof(T) == 4 ? 3.9192059 : 5.9215871957945074),
                    // where erfc underflows to 0
                    T(sizeof(T) == 4 ? 10.0198 : 27.226017111108366),
                    // limits of the fast range reduction of sin
                    T(16384), T(0x1p28),
                    // the double nearest to a multiple of pi / 2
                    T(sizeof(T) == 4 ? 0x1.6ac5b2p+117 : 0x1.6ac5b262ca1ffp+849)};
  for (T b : base) {
    for (T x :
         {std::nextafter(b, -L::infinity()), b, std::nextafter(b, L::infinity())}) {
      points.push_back(x);
      points.push_back(-x);
    }
  }
  points.push_back(L::quiet_NaN());
  return points;
}

template <class T>
void keep_domain(const Function<T>& f, std::vector<T>* x) {
  size_t kept = 0;
  for (T v : *x) {
    if (in_domain(f, v)) (*x)[kept++] = v;
  }
  x->resize(kept);
}

void test_floats(const Function<float>& f, Fnv* hash) {
  Worst<float> worst;
  std::vector<float> x = special_points<float>();
  for (uint64_t b = 0; b < 0x100000000u; b += kFloatStride) {
    x.push_back(from_bits_of<float>(static_cast<uint32_t>(b)));
  }
  Random random{1};
  for (int i = 0; i < kDenseFloats; ++i) {
    x.push_back(static_cast<float>(f.low + (f.high - f.low) * random.uniform()));
  }
  keep_domain(f, &x);
  check(f, x, &worst, hash);
  report(f, worst);
}

void test_all_floats(const Function<float>& f, Fnv* hash) {
  constexpr uint64_t kChunk = 1u << 16;
  Worst<float> worst;
  std::vector<float> x;
  for (uint64_t start = 0; start < 0x100000000u; start += kChunk) {
    x.clear();
    for (uint64_t b = start; b < start + kChunk; ++b) {
      x.push_back(from_bits_of<float>(static_cast<uint32_t>(b)));
    }
    keep_domain(f, &x);
    check(f, x, &worst, hash);
  }
  report(f, worst);
}

void test_doubles(const Function<double>& f, Fnv* hash) {
  Worst<double> worst;
  std::vector<double> x = special_points<double>();
  Random random{2};
  for (int i = 0; i < kDenseDoubles; ++i) {
    // Random bits, the interval of the function, and magnitudes around 1.
    const uint64_t u = random.next();
    x.push_back(from_bits_of<double>(u));
    x.push_back(f.low + (f.high - f.low) * random.uniform());
    const uint64_t exponent = 1023 - 58 + (u >> 58);
    const uint64_t kept = 0x800FFFFFFFFFFFFFu;
    x.push_back(from_bits_of<double>((random.next() & kept) | exponent << 52));
    // Near multiples of pi / 2 (for other functions these are merely further points).
    if (i % 8 == 0) {
      const double k = static_cast<double>(random.next() >> (34 + i % 30));
      x.push_back(k * 1.5707963267948966);
    }
  }
  keep_domain(f, &x);
  check(f, x, &worst, hash);
  report(f, worst);
}

// --- identities ----------------------------------------------------------------------

template <class T>
void test_edges() {
  constexpr T inf = std::numeric_limits<T>::infinity();
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  constexpr T tiny = std::numeric_limits<T>::denorm_min();
  struct Edge {
    const char* name;
    void (*run)(const T*, T*, Index);
    T x, y;
  };
  const Edge edges[] = {
      {"exp", run_exp<T>, 0, 1},
      {"exp", run_exp<T>, -T(0), 1},
      {"exp", run_exp<T>, inf, inf},
      {"exp", run_exp<T>, -inf, 0},
      {"expm1", run_expm1<T>, 0, 0},
      {"expm1", run_expm1<T>, -T(0), -T(0)},
      {"expm1", run_expm1<T>, tiny, tiny},
      {"expm1", run_expm1<T>, inf, inf},
      {"expm1", run_expm1<T>, -inf, -1},
      {"log", run_log<T>, 1, 0},
      {"log", run_log<T>, 0, -inf},
      {"log", run_log<T>, -T(0), -inf},
      {"log", run_log<T>, inf, inf},
      {"log", run_log<T>, -tiny, nan},
      {"log", run_log<T>, -inf, nan},
      {"log1p", run_log1p<T>, 0, 0},
      {"log1p", run_log1p<T>, -T(0), -T(0)},
      {"log1p", run_log1p<T>, tiny, tiny},
      {"log1p", run_log1p<T>, -1, -inf},
      {"log1p", run_log1p<T>, -2, nan},
      {"log1p", run_log1p<T>, inf, inf},
      {"log1p", run_log1p<T>, -inf, nan},
      {"log1p01", run_log1p01<T>, 0, 0},
      {"tanh", run_tanh<T>, 0, 0},
      {"tanh", run_tanh<T>, -T(0), -T(0)},
      {"tanh", run_tanh<T>, tiny, tiny},
      {"tanh", run_tanh<T>, inf, 1},
      {"tanh", run_tanh<T>, -inf, -1},
      {"sigmoid", run_sigmoid<T>, 0, T(0.5)},
      {"sigmoid", run_sigmoid<T>, -T(0), T(0.5)},
      {"sigmoid", run_sigmoid<T>, inf, 1},
      {"sigmoid", run_sigmoid<T>, -inf, 0},
      {"sin", run_sin<T>, 0, 0},
      {"sin", run_sin<T>, -T(0), -T(0)},
      {"sin", run_sin<T>, -tiny, -tiny},
      {"sin", run_sin<T>, inf, nan},
      {"sin", run_sin<T>, -inf, nan},
      {"cos", run_cos<T>, 0, 1},
      {"cos", run_cos<T>, -T(0), 1},
      {"cos", run_cos<T>, inf, nan},
      {"cos", run_cos<T>, -inf, nan},
      {"erf", run_erf<T>, 0, 0},
      {"erf", run_erf<T>, -T(0), -T(0)},
      {"erf", run_erf<T>, tiny, tiny},
      {"erf", run_erf<T>, inf, 1},
      {"erf", run_erf<T>, -inf, -1},
      {"erfc", run_erfc<T>, 0, 1},
      {"erfc", run_erfc<T>, -T(0), 1},
      {"erfc", run_erfc<T>, inf, 0},
      {"erfc", run_erfc<T>, -inf, 2},
  };
  for (const Edge& e : edges) {
    expect(e.name, e.x, value(e.run, e.x), e.y);
    expect(e.name, nan, value(e.run, nan), nan);
  }
}

// f(-x) = -f(x), or f(-x) = f(x) for an even function, bitwise.
template <class T>
void test_symmetry(const char* name, void (*run)(const T*, T*, Index), bool odd,
                   const std::vector<T>& x) {
  std::vector<T> mirrored(x.size()), y(x.size()), z(x.size());
  for (size_t i = 0; i < x.size(); ++i) mirrored[i] = -x[i];
  run(x.data(), y.data(), static_cast<Index>(x.size()));
  run(mirrored.data(), z.data(), static_cast<Index>(x.size()));
  Law law{name, Reference<T>::kName};
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(y[i]) && std::isnan(z[i])) continue;
    law.check(bits_of(odd ? -y[i] : y[i]) == bits_of(z[i]), static_cast<double>(x[i]));
  }
}

// Requires x in ascending order.
template <class T>
void test_monotone(const char* name, void (*run)(const T*, T*, Index),
                   const std::vector<T>& x, T low, T high) {
  std::vector<T> y(x.size());
  run(x.data(), y.data(), static_cast<Index>(x.size()));
  Law law{name, Reference<T>::kName};
  for (size_t i = 0; i < x.size(); ++i) {
    law.check(y[i] >= low && y[i] <= high && (i == 0 || y[i - 1] <= y[i]),
              static_cast<double>(x[i]));
  }
}

template <class T>
void test_laws() {
  constexpr T inf = std::numeric_limits<T>::infinity();
  std::vector<T> any_bits = special_points<T>();
  Random random{3};
  for (int i = 0; i < 50000; ++i) {
    any_bits.push_back(
        from_bits_of<T>(static_cast<typename Reference<T>::bits>(random.next())));
    any_bits.push_back(static_cast<T>(20 * random.uniform()));
  }
  test_symmetry("tanh(-x) = -tanh(x)", run_tanh<T>, true, any_bits);
  test_symmetry("erf(-x) = -erf(x)", run_erf<T>, true, any_bits);
  test_symmetry("sin(-x) = -sin(x)", run_sin<T>, true, any_bits);
  test_symmetry("cos(-x) = cos(x)", run_cos<T>, false, any_bits);

  std::vector<T> grid;
  for (int i = -400000; i <= 400000; ++i) grid.push_back(static_cast<T>(i) / 3701);
  test_monotone("exp: ascending, >= 0", run_exp<T>, grid, T(0), inf);
  test_monotone("tanh: ascending, |y| <= 1", run_tanh<T>, grid, T(-1), T(1));
  test_monotone("sigmoid: ascending, 0 <= y <= 1", run_sigmoid<T>, grid, T(0), T(1));
  test_monotone("erf: ascending, |y| <= 1", run_erf<T>, grid, T(-1), T(1));

  Law in_range{"|sin|, |cos| <= 1", Reference<T>::kName};
  Law same_exp{"exp_nonpositive = exp", Reference<T>::kName};
  for (T x : any_bits) {
    const T s = value(run_sin<T>, x), c = value(run_cos<T>, x);
    in_range.check(!std::isfinite(x) || (std::fabs(s) <= 1 && std::fabs(c) <= 1), x);
    same_exp.check(!(x <= 0) || bits_of(value(run_exp_nonpositive<T>, x)) ==
                                    bits_of(value(run_exp<T>, x)),
                   x);
  }
}

bool cpu_has_isa() {
#if defined(FASTMLP_ISA_avx512)
  return fastmlp::X86().avx512;
#elif defined(FASTMLP_ISA_avx2)
  return fastmlp::X86().avx2;
#else
  return true;
#endif
}

}  // namespace

int main(int argc, char** argv) {
  if (!cpu_has_isa()) {
    std::printf("this CPU has no %s\n", FASTMLP_STRING(FASTMLP_ISA));
    return 77;
  }
  Fnv hash;
  if (argc > 1 && std::strcmp(argv[1], "--exhaustive") == 0) {
    for (const Function<float>& f : kFloatFunctions) {
      if (argc > 2 && std::strcmp(argv[2], f.name) != 0) continue;
      test_all_floats(f, &hash);
    }
  } else {
    for (const Function<float>& f : kFloatFunctions) test_floats(f, &hash);
    for (const Function<double>& f : kDoubleFunctions) test_doubles(f, &hash);
    test_edges<float>();
    test_edges<double>();
    test_laws<float>();
    test_laws<double>();
  }
  if (failures > 0) std::printf("%d failures\n", failures);
  std::printf("hash math %016llx\n", static_cast<unsigned long long>(hash.state));
  return failures > 0 ? 1 : 0;
}
