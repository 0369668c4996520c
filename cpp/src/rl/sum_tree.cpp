#include "fastmlp/sum_tree.h"

#include <string.h>

#include <algorithm>
#include <limits>
#include <new>

namespace fastmlp {
namespace {

// 2^e for an exponent of a normal number.
double power_of_two(int64_t e) {
  const uint64_t bits = static_cast<uint64_t>(e + 1023) << 52;
  double result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

// log x for a normal x > 0. With x = 2^e m and m from √½ to √2,
// log m = 2 artanh(s) for s = (m - 1) / (m + 1), of which abs(s) < 0.172.
double logarithm(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof(bits));
  int64_t e = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFu) | uint64_t{1023} << 52;
  double m;
  memcpy(&m, &bits, sizeof(m));
  constexpr double kSqrt2 = 1.4142135623730951;
  if (m > kSqrt2) {
    m *= 0.5;
    ++e;
  }
  const double s = (m - 1) / (m + 1), z = s * s;
  double sum = 0;
  for (int k = 23; k >= 3; k -= 2) sum = (sum + 1.0 / k) * z;
  constexpr double kLog2 = 0.6931471805599453;
  return static_cast<double>(e) * kLog2 + 2 * (s + s * sum);
}

// e^x for abs(x) < 700: 2^k e^r by the Taylor series, with abs(r) < 0.35.
double exponential(double x) {
  constexpr double kLog2High = 0.6931471803691238, kLog2Low = 1.9082149292705877e-10;
  const double scaled = x * 1.4426950408889634;
  const int64_t k = static_cast<int64_t>(scaled + (scaled < 0 ? -0.5 : 0.5));
  const double n = static_cast<double>(k);
  const double r = (x - n * kLog2High) - n * kLog2Low;
  double sum = 1;
  for (int i = 14; i >= 1; --i) sum = 1 + sum * r / i;
  return sum * power_of_two(k);
}

}  // namespace

SumTree::SumTree(Index size) : size_(size) {
  constexpr Index kNode = static_cast<Index>(sizeof(Node));
  if (size > std::numeric_limits<Index>::max() / (2 * kNode)) throw std::bad_alloc();
  // calloc, because it need not touch the pages.
  const size_t count = 2 * static_cast<size_t>(std::max<Index>(size, 1));
  nodes_.reset(static_cast<Node*>(calloc(count, sizeof(Node))));
  if (!nodes_) throw std::bad_alloc();
}

void SumTree::set(Index i, double weight) {
  Node* const nodes = nodes_.get();
  Index at = size_ + i;
  nodes[at] = {weight, weight};
  while (at > 1) {
    at /= 2;
    const Node &left = nodes[2 * at], &right = nodes[2 * at + 1];
    const double least = std::min(left.smallest, right.smallest);
    nodes[at] = {left.sum + right.sum,
                 least > 0 ? least : std::max(left.smallest, right.smallest)};
  }
}

Index SumTree::find(double position) const {
  Index at = 1;
  while (at < size_) {
    const Node &left = node(2 * at), &right = node(2 * at + 1);
    if (position < left.sum || right.sum == 0) {
      at = 2 * at;
    } else {
      position -= left.sum;
      at = 2 * at + 1;
    }
  }
  return at - size_;
}

double positive_power(double x, double a) {
  constexpr double kLeast = std::numeric_limits<double>::min();
  constexpr double kMost = std::numeric_limits<double>::max();
  // Logarithms of bounds well inside the range of normal numbers.
  constexpr double kLowest = -700, kHighest = 700;
  const double y = a * logarithm(std::max(x, kLeast));
  if (y <= kLowest) return kLeast;
  if (y >= kHighest) return kMost;
  return exponential(y);
}

}  // namespace fastmlp
