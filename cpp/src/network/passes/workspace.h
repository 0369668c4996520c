// Memory of a training pass. It is planned once for a number of rows, so that a step
// allocates nothing.
#pragma once

#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "network/ops/op.h"

namespace fastmlp::detail {

template <class T>
class Workspace {
 public:
  // Provides memory for a pass over a batch of `batch_rows` rows that processes `rows`
  // rows at a time, at most `batch_rows`; without `dense`, x gets none. Does nothing if
  // the memory suffices; otherwise all contents are lost.
  void prepare(const NetworkPlan& net, Index rows, Index batch_rows, int threads,
               bool dense);
  int threads() const { return threads_; }

  std::vector<OpMemory<T>> ops;
  T* x = nullptr;             // gathered or kept input (rows, n_in), or null
  T* target = nullptr;        // gathered targets (rows, n_out)
  int64_t* labels = nullptr;  // gathered labels (rows)
  T* row_loss = nullptr;      // (batch_rows)
  T* row_scale = nullptr;     // (batch_rows)
  T* effective = nullptr;     // memory of EffectiveParams
  Scratch<T> scratch(int rank) const {
    T* const left = scratch_ + rank * (left_size_ + right_size_);
    return {left, left + left_size_};
  }

 private:
  AlignedBuffer<T> buffer_;
  AlignedBuffer<int64_t> label_buffer_;
  Index rows_ = 0;
  Index batch_rows_ = 0;
  int threads_ = 0;
  bool dense_ = false;
  T* scratch_ = nullptr;
  Index left_size_ = 0, right_size_ = 0;
};

}  // namespace fastmlp::detail
