// The kernels for products in bfloat16 of every instruction set: rounding, packing and
// products have the bits that bfloat16_kernels.h defines, computed here element by
// element with std::fma, and nothing beyond the operands and the memory planned for them
// is accessed (guarded.h).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "check.h"
#include "fastmlp/bfloat16_kernels.h"
#include "fastmlp/fp_environment.h"
#include "fastmlp/gemm_bfloat16.h"
#include "fastmlp/isa.h"
#include "guarded.h"

#ifdef HAVE_EMULATED_AMX
namespace fastmlp {
namespace amx_emulated {
extern const Bfloat16Kernels kBfloat16Kernels;
}
}  // namespace fastmlp
#endif

namespace {

using namespace fastmlp;

// The kernels under test.
const Bfloat16Kernels* tested = nullptr;
const char* kernels_name = "";

uint64_t state = 88172645463325252u;
uint64_t random64() {  // Marsaglia's xorshift
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

// What the operands are drawn from.
enum class Numbers { ordinary, wide, special };
constexpr Numbers kAllNumbers[] = {Numbers::ordinary, Numbers::wide, Numbers::special};

float draw(Numbers numbers) {
  const double unit = static_cast<double>(random64() >> 11) * 0x1p-52 - 1;
  if (numbers == Numbers::special) {
    constexpr float kInf = std::numeric_limits<float>::infinity();
    constexpr float kSpecial[] = {
        0.0f,     -0.0f,     1e-40f,          -1e-40f,
        0x1p-55f, -0x1p-55f, 0x1.fffffep-56f, 3e38f,
        -3e38f,   kInf,      -kInf,           std::numeric_limits<float>::quiet_NaN()};
    if (random64() % 16 == 0) return kSpecial[random64() % std::size(kSpecial)];
  }
  const int binades = numbers == Numbers::ordinary ? 4 : 160;
  const int exponent = static_cast<int>(random64() % static_cast<uint64_t>(binades));
  return static_cast<float>(std::ldexp(unit, exponent - binades / 2));
}

float rounded(float x) {
  if (std::isnan(x)) return x;
  if (std::fabs(x) < 0x1p-55f) return 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  const uint32_t below = bits & 0xffff;
  bits &= 0xffff0000u;
  // To the nearest; of two that are as near, to the even one.
  if (below > 0x8000 || (below == 0x8000 && (bits & 0x10000))) bits += 0x10000;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

bool same(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

float finished(float x, EpilogueKind kind, float saved) {
  if (kind == EpilogueKind::relu) return x <= 0 ? 0.0f : x;
  if (kind == EpilogueKind::relu_backward) return saved > 0 ? x : 0.0f;
  return x;
}

// Element (i, j) of the product of A(i, p) and B(p, j).
template <class A, class B>
float product_at(A a, B b, Index k, float start) {
  float sum = start;
  for (Index first = 0; first < k; first += kBfloat16Block) {
    float chain[2] = {0.0f, 0.0f};
    for (Index p = first; p < std::min(k, first + kBfloat16Block); ++p) {
      float& c = chain[p % 2];
      c = std::fma(rounded(a(p)), rounded(b(p)), c);
    }
    sum += chain[0] + chain[1];
  }
  return sum;
}

struct Case {
  Index m, n, k;
  bool a_by_rows, b_by_rows;  // whether rows of A, or of B, are contiguous
  bool accumulate, has_bias;
  EpilogueKind kind;
  Numbers numbers;
};

// The operands of a case, and C, which begins as `before`.
struct Data {
  mutable Guarded guarded;
  const float *a, *b, *bias, *saved;
  float* c;
  std::vector<float> before;
  LeftOperand<float> left;
  Index rs, cs;  // of b
  const float* bias_or_null;
  Epilogue<float> epilogue;

  explicit Data(const Case& t)
      : a(numbers(t, t.m * t.k)),
        b(numbers(t, t.k * t.n)),
        bias(numbers(t, t.n)),
        saved(numbers(t, t.m * t.n)),
        c(numbers(t, t.m * t.n)),
        before(c, c + t.m * t.n),
        left(t.a_by_rows ? LeftOperand<float>{a, t.k, 1}
                         : LeftOperand<float>{a, 1, t.m}),
        rs(t.b_by_rows ? t.n : 1),
        cs(t.b_by_rows ? 1 : t.k),
        bias_or_null(t.has_bias ? bias : nullptr),
        epilogue{t.kind, saved, t.n} {}

 private:
  float* numbers(const Case& t, Index size) {
    float* const x = guarded.array<float>(size);
    for (Index i = 0; i < size; ++i) x[i] = draw(t.numbers);
    return x;
  }
};

void check(const Case& t, const char* what, const Data& d) {
  int wrong = 0;
  for (Index i = 0; i < t.m; ++i) {
    for (Index j = 0; j < t.n; ++j) {
      const auto at_a = [&](Index p) {
        return d.left.data[i * d.left.rs + p * d.left.cs];
      };
      const auto at_b = [&](Index p) { return d.b[p * d.rs + j * d.cs]; };
      const size_t at = static_cast<size_t>(i * t.n + j);
      float x = product_at(at_a, at_b, t.k, t.accumulate ? d.before[at] : 0.0f);
      if (t.has_bias) x += d.bias[j];
      x = finished(x, t.kind, d.saved[at]);
      wrong += !same(x, d.c[at]);
    }
  }
  if (wrong > 0) {
    std::printf("%s, %s: %d x %d x %d, numbers %d: %d elements are wrong\n",
                kernels_name, what, static_cast<int>(t.m), static_cast<int>(t.n),
                static_cast<int>(t.k), static_cast<int>(t.numbers), wrong);
  }
  CHECK(wrong == 0);
}

void multiply(const Case& t) {
  const Data d(t);

  const Index blocks = (t.k + kBfloat16Block - 1) / kBfloat16Block;
  const Index rows = (t.m + tested->mr - 1) / tested->mr * tested->mr;
  float* const left = d.guarded.array<float>(rows * blocks * tested->words);
  const Index stride = detail::bfloat16_panel_stride(*tested, t.k);
  const Index panels = (t.n + tested->nr - 1) / tested->nr;
  float* const right = d.guarded.array<float>(panels * stride);
  const Bfloat16Left packed = tested->pack_left(left, d.left, t.m, t.k);
  tested->pack_right(right, stride, d.b, d.rs, d.cs, t.k, t.n);
  tested->gemm(d.c, t.n, packed, {right, stride}, t.m, t.n, t.k, d.bias_or_null,
               t.accumulate, d.epilogue);
  check(t, "packed", d);

  if (t.accumulate || !t.a_by_rows || !t.b_by_rows) return;
  tested->few_rows(d.c, t.n, d.a, t.k, d.b, t.n, t.m, t.n, t.k, d.bias_or_null,
                   d.epilogue);
  check(t, "few rows", d);
}

// Ways to store the operands, to begin and to end; they are independent of each other,
// so that each is combined with a few others.
constexpr int kWays = 6;
void multiply(Index m, Index n, Index k, int way) {
  const EpilogueKind kinds[] = {EpilogueKind::none, EpilogueKind::relu,
                                EpilogueKind::relu_backward};
  multiply({m, n, k, way < 4, way % 2 == 0, way % 3 == 1, way % 3 != 1, kinds[way % 3],
            kAllNumbers[(way + m + n + k) % 3]});
}
void all_ways(Index m, Index n, Index k) {
  for (int way = 0; way < kWays; ++way) multiply(m, n, k, way);
}

// The same for products in blocks of the size that the caches set, with the memory that
// is planned for them. The right operand is packed block by block, or as a whole.
void multiply_in_blocks(const Case& t, bool packs_blocks) {
  const Data d(t);
  const MatrixView<float> to = {d.c, t.m, t.n, t.n};
  float* const left_scratch =
      d.guarded.array<float>(detail::bfloat16_left_scratch_size(t.m, t.k));
  if (packs_blocks) {
    float* const right_scratch =
        d.guarded.array<float>(detail::bfloat16_right_scratch_size(t.k, t.n));
    detail::gemm_bfloat16_packing(*tested, to, d.left, d.b, d.rs, d.cs, t.k,
                                  d.bias_or_null, t.accumulate, left_scratch,
                                  right_scratch, d.epilogue);
  } else {
    float* const packed =
        d.guarded.array<float>(detail::bfloat16_right_bound(t.k, t.n));
    tested->pack_right(packed, detail::bfloat16_panel_stride(*tested, t.k), d.b, d.rs,
                       d.cs, t.k, t.n);
    detail::gemm_bfloat16(*tested, to, d.left, packed, t.k, d.bias_or_null,
                          t.accumulate, left_scratch, d.epilogue);
  }
  check(t, "in blocks", d);
}

void blocks() {
  constexpr Index kShapes[][3] = {{1, 1, 1},      {97, 65, 70},  {131, 70, 33},
                                  {500, 33, 65},  {33, 1100, 9}, {9, 70, 1100},
                                  {101, 129, 257}};
  for (const auto& [m, n, k] : kShapes) {
    for (int way = 0; way < 4; ++way) {
      const auto kind = way % 2 ? EpilogueKind::relu : EpilogueKind::relu_backward;
      multiply_in_blocks({m, n, k, way < 2, way % 2 == 0, way % 3 == 0, way % 3 != 0,
                          kind, kAllNumbers[(way + m) % 3]},
                         way != 1);
      multiply_in_blocks({m, n, k, way < 2, way % 2 == 0, way % 3 == 0, false,
                          EpilogueKind::none, Numbers::ordinary},
                         way == 1);
    }
  }
}

void rounding() {
  std::vector<float> x, y;
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 0x1357) {
    const auto low = static_cast<uint32_t>(bits);
    float value;
    std::memcpy(&value, &low, sizeof value);
    x.push_back(value);
  }
  for (int i = 0; i < 100; ++i) x.push_back(draw(Numbers::special));
  y.resize(x.size());
  tested->round(y.data(), x.data(), static_cast<Index>(x.size()));
  int wrong = 0;
  for (size_t i = 0; i < x.size(); ++i) wrong += !same(y[i], rounded(x[i]));
  CHECK(wrong == 0);
}

void check_all() {
  rounding();
  for (Index m = 1; m <= 33; ++m) {
    for (Index n = 1; n <= 33; ++n) {
      multiply(m, n, 1 + (m * 33 + n) % 97, static_cast<int>(m + n) % kWays);
    }
  }
  for (Index k = 1; k <= 97; ++k) {
    all_ways(1, 1, k);
    all_ways(7, 33, k);
    all_ways(33, 18, k);
  }
  all_ways(70, 90, 500);
  all_ways(3, 300, 0);
  blocks();
}

}  // namespace

int main() {
  // As in all calls of the library: subnormal numbers count as 0.
  const CoreFpEnvironment environment;
  bool has_pairs = false;
  for (const Isa isa : available_isas()) {
    kernels_name = isa_name(isa);
    set_active_isa(kernels_name);
    tested = &active_bfloat16_kernels();
    has_pairs = has_pairs || isa == Isa::avx512_bf16;
    check_all();
  }
#ifdef HAVE_EMULATED_AMX
  if (has_pairs) {
    kernels_name = "emulated AMX";
    tested = &amx_emulated::kBfloat16Kernels;
    check_all();
  }
#endif
  return failures > 0;
}
