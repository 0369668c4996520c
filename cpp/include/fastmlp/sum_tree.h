// A binary tree over positive weights, to draw one in proportion to its weight.
#pragma once

#include <stdlib.h>

#include <memory>

#include "fastmlp/types.h"

namespace fastmlp {

// The sum and the minimum at an inner node are functions of its two children alone. So
// they depend on the present weights, but not on how these came about.
class SumTree {
 public:
  // All weights are 0. Throws std::bad_alloc. Pages of memory are first touched when
  // weights are set in them.
  explicit SumTree(Index size);

  Index size() const { return size_; }
  double weight(Index i) const { return node(size_ + i).sum; }
  void set(Index i, double weight);  // weight >= 0
  double total() const { return node(1).sum; }
  // The smallest weight other than 0; 0 if there is none.
  double smallest() const { return node(1).smallest; }
  // The element at a position of the cumulative sum, 0 <= position <= total(). Its
  // weight is not 0; total() must not be 0.
  Index find(double position) const;

 private:
  struct Node {
    double sum, smallest;
  };
  struct Free {
    void operator()(Node* p) const { free(p); }
  };
  const Node& node(Index i) const { return nodes_.get()[i]; }

  Index size_;
  // Node 1 is the root, and the children of node i are 2 i and 2 i + 1. The last
  // `size_` nodes are the leaves.
  std::unique_ptr<Node, Free> nodes_;
};

// x^a for x > 0, within 1e-12 of the value for moderate a log x, from basic arithmetic:
// the same bits on every machine. Results that a double cannot represent are clamped to
// its smallest and largest positive normal numbers.
double positive_power(double x, double a);

}  // namespace fastmlp
