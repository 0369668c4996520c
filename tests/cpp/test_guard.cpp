// Every kernel on arrays that end where readable memory ends: reading or writing one
// element too far crashes. Sanitizers do not check masked vector loads, the page table
// does.
#include <cstdio>

#include "fastmlp/isa.h"
#include "fastmlp/kernel_table.h"
#include "guarded.h"

namespace {

using namespace fastmlp;

constexpr Index kSizes[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33};

template <class T>
void products(const KernelTable<T>& table) {
  constexpr Index kDepth = 3;
  for (const Index m : kSizes) {
    for (const Index n : kSizes) {
      Guarded g;
      T* const c = g.array<T>(m * n);
      T* const bias = g.array<T>(n);
      const LeftOperand<T> rows = {g.array<T>(m * kDepth), kDepth, 1};
      const LeftOperand<T> columns = {g.array<T>(m * kDepth), 1, m};
      const RightOperand<T> b = {g.array<T>(kDepth * n), n, table.nr};
      table.gemm(c, n, rows, b, m, n, kDepth, bias, false, {});
      table.gemm(c, n, columns, b, m, n, kDepth, nullptr, true, {});

      // Pack the operands, then multiply the packed ones.
      const Index left = (m + table.mr - 1) / table.mr * table.mr * kDepth;
      const Index right = (n + table.nr - 1) / table.nr * table.nr * kDepth;
      T* const packed_left = g.array<T>(left);
      T* const packed_right = g.array<T>(right);
      table.pack_left(packed_left, rows, m, kDepth);
      table.pack_left(packed_left, columns, m, kDepth);
      const Index stride = kDepth * table.nr;
      table.pack_right(packed_right, stride, b.data, n, 1, kDepth, n);
      table.pack_right(packed_right, stride, b.data, 1, kDepth, kDepth, n);
      table.gemm(c, n, {packed_left, 1, table.mr}, {packed_right, table.nr, stride}, m,
                 n, kDepth, bias, false, {EpilogueKind::relu, nullptr, 0});
      const T* const saved = g.array<T>(m * n);
      table.gemm(c, n, rows, b, m, n, kDepth, bias, false,
                 {EpilogueKind::relu_backward, saved, n});
      table.column_sum(bias, c, n, m, n, false);
      table.all_finite(c, n, m, n);
    }
  }
}

template <class T>
void rows_of(const KernelTable<T>& table, Index m, Index n) {
  Guarded g;
  T* const z = g.array<T>(m * n);
  T* const h = g.array<T>(m * n);
  for (int i = 0; i < kActivationCount; ++i) {
    const auto kind = static_cast<Activation>(i);
    table.activation_forward(kind, h, n, z, n, m, n);
    table.activation_backward(kind, h, n, z, n, z, n, m, n);
  }
  T* const target = g.array<T>(m * n);
  T* const row_loss = g.array<T>(m);
  T* const row_scale = g.array<T>(m);
  T* const each = g.array<T>(n);
  T* const column = g.array<T>(m);
  int64_t* const labels = g.array<int64_t>(m);
  for (Index r = 0; r < m; ++r) labels[r] = r % n;
  for (int i = 0; i < kLossCount; ++i) {
    LossArgs<T> args = {static_cast<LossKind>(i), T(1)};
    const bool only_labels = facts_of(args.kind).allowed == Allowed::labels;
    const Index parts = args.kind == LossKind::mixture_density ? 3 : 2;
    args.masked = args.kind == LossKind::mae;  // takes the path of tiles
    if (facts_of(args.kind).form == LossForm::density) {
      if (n % parts != 0) continue;
      T* const y = g.array<T>(m * (n / parts));
      for (T* const d : {h, static_cast<T*>(nullptr)}) {
        table.loss_rows(args, d, n, row_loss, z, n, y, n / parts, nullptr, row_scale, m,
                        n);
      }
      continue;
    }
    for (const bool weighted : {false, true}) {
      args.per_output = weighted ? each : nullptr;
      args.smoothing = weighted ? T(0.5) : T(0);
      for (T* const d : {h, static_cast<T*>(nullptr)}) {
        if (!only_labels) {
          table.loss_rows(args, d, n, row_loss, z, n, target, n, nullptr, row_scale, m,
                          n);
        }
        if (only_labels || args.kind == LossKind::cross_entropy) {
          table.loss_rows(args, d, n, row_loss, z, n, nullptr, n, labels, row_scale, m,
                          n);
        }
      }
    }
    if (args.kind == LossKind::quantile && n <= kMostLevels) {
      args.second = T(1);  // quantiles by steps
      args.per_output = each;
      table.loss_rows(args, h, n, row_loss, z, n, target, n, nullptr, row_scale, m, n);
    }
    if (facts_of(args.kind).form != LossForm::element) continue;
    args = {args.kind, T(1)};
    args.action = true;
    for (T* const d : {h, static_cast<T*>(nullptr)}) {
      table.loss_rows(args, d, n, row_loss, z, n, column, 1, labels, row_scale, m, n);
    }
  }
}

template <class T>
void flat(const KernelTable<T>& table, Index n) {
  Guarded g;
  T* const p = g.array<T>(n);
  T* const grad = g.array<T>(n);
  T* const a = g.array<T>(n);
  T* const b = g.array<T>(n);
  T* const c = g.array<T>(n);
  T* const slots[kStateSlots] = {a, b, c};
#define FASTMLP_STEP(name, Name) table.name##_step({}, p, slots, grad, n);
  FASTMLP_OPTIMIZERS(FASTMLP_STEP)
#undef FASTMLP_STEP
  p[0] = table.dot(a, grad, n);
  table.axpy(p, grad, T(2), n);
  table.sum_of_squares(grad, n);
  table.condition_gradient({T(0.5), T(1), T(0.1)}, a, grad, p, n);
  table.interpolate(a, grad, T(0.5), n);
  for (int i = 0; i < kElementaryCount; ++i) {
    table.elementary(static_cast<Elementary>(i), p, grad, n);
  }
}

template <class T>
void all_kernels() {
  const KernelTable<T>& table = kernels<T>();
  products(table);
  for (const Index n : kSizes) {
    for (const Index m : {1, 2, 7, 9, 33}) rows_of(table, m, n);
    flat(table, n);
  }
}

}  // namespace

int main() {
  for (const Isa isa : available_isas()) {
    set_active_isa(isa_name(isa));
    all_kernels<float>();
    all_kernels<double>();
    std::printf("%s: stayed within bounds\n", isa_name(isa));
  }
  return 0;
}
