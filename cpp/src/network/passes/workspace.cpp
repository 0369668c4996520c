#include "network/passes/workspace.h"

#include <algorithm>

#include "network/ops/ops.h"

namespace fastmlp::detail {

template <class T>
void Workspace<T>::prepare(const NetworkPlan& net, Index n_rows, Index batch_rows,
                           int threads, bool dense) {
  if (n_rows <= rows_ && batch_rows <= batch_rows_ && threads <= threads_ &&
      dense <= dense_) {
    return;
  }
  n_rows = std::max(n_rows, rows_);
  batch_rows = std::max(batch_rows, batch_rows_);
  threads = std::max(threads, threads_);
  dense = dense || dense_;
  // If an allocation throws, the workspace counts as empty.
  rows_ = 0;
  left_size_ = dense_left_scratch_size<T>(net, n_rows);
  right_size_ = dense_right_scratch_size<T>(net, n_rows);
  const auto take_all = [&](T* base) {
    Arena<T> arena(base);
    ops.assign(net.ops.size(), {});
    x = dense ? arena.take(n_rows * net.n_in) : nullptr;
    target = arena.take(n_rows * net.n_out);
    row_loss = arena.take(batch_rows);
    row_scale = arena.take(batch_rows);
    effective = arena.take(EffectiveParams<T>::memory_size(net));
    std::vector<bool> has_gradient(net.ops.size(), false);
    for (size_t l = net.ops.size(); l-- > 0;) {
      const OpPlan& op = net.ops[l];
      OpMemory<T>& memory = ops[l];
      const Index values = n_rows * op.n_out;
      memory.h = arena.take(values);
      memory.z = op.saves_input() ? arena.take(values) : memory.h;
      if (!has_gradient[l]) memory.dz = arena.take(values);
      if (op.shares_input) {
        const size_t input = static_cast<size_t>(op.input);
        ops[input].dz = memory.dz;
        has_gradient[input] = true;
      }
      visit(op.kind, [&](auto kind) { kind.take_memory(arena, op, n_rows, memory); });
    }
    scratch_ = arena.take((left_size_ + right_size_) * threads);
    return arena.used();
  };
  const Index size = take_all(nullptr);
  buffer_.reserve(size);
  label_buffer_.reserve(n_rows);
  take_all(buffer_.data());
  labels = label_buffer_.data();
  rows_ = n_rows;
  batch_rows_ = batch_rows;
  threads_ = threads;
  dense_ = dense;
}

template class Workspace<float>;
template class Workspace<double>;

}  // namespace fastmlp::detail
