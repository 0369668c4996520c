// The products of dense layers with operands in bfloat16. DenseOp calls these functions
// in place of its own products if the arguments have the kernels for them.
#pragma once

#include <algorithm>

#include "fastmlp/gemm_bfloat16.h"
#include "network/ops/op.h"

namespace fastmlp::detail {

// Elements of Scratch::left for weight gradients of up to `rows` rows that are computed
// transposed.
inline Index dense_bfloat16_scratch_size(const NetworkPlan& net, Index rows) {
  Index size = 0;
  for (const OpPlan& op : net.ops) {
    if (!op.is_dense() || op.n_out > kBfloat16MostRows) continue;
    size =
        std::max(size, op.n_in * op.n_out + bfloat16_left_scratch_size(op.n_out, rows));
  }
  return size;
}

struct DenseBfloat16 {
  // Networks of doubles have full operands, so that their arguments never have the
  // kernels.
  template <class... Args>
  static void forward(const ForwardArgs<double>&, Args&&...) {}
  template <class... Args>
  static void backward(const BackwardArgs<double>&, Args&&...) {}
  template <class... Args>
  static void weight_gradients(const WeightGradientArgs<double>&, Args&&...) {}
  static void pack(const Team&, const Bfloat16Kernels&, const OpPlan&, const double*,
                   double*) {}
  static void pack_transposed(const Team&, const Bfloat16Kernels&, const OpPlan&,
                              const double*, double*) {}

  // Computes columns of z = x W + b. Packs W in blocks if there is scratch memory for
  // them.
  static void forward(const ForwardArgs<float>& a, const OpPlan& op, Range columns,
                      float* z, const Scratch<float>& scratch,
                      const Epilogue<float>& epilogue) {
    const Index n = op.n_out, k = op.n_in;
    const float* const w = a.params + op.weight + columns.begin;
    const float* const bias =
        op.bias >= 0 ? a.params + op.bias + columns.begin : nullptr;
    const MatrixView<float> to = {z + columns.begin, a.rows, columns.size(), n};
    if (scratch.right) {
      gemm_bfloat16_packing(*a.bfloat16, to, {a.x, k, 1}, w, n, 1, k, bias, false,
                            scratch.left, scratch.right, epilogue);
    } else if (a.packed) {
      gemm_bfloat16(*a.bfloat16, to, {a.x, k, 1}, a.packed, k, bias, false,
                    scratch.left, epilogue);
    } else {
      a.bfloat16->few_rows(to.data, n, a.x, k, w, n, a.rows, to.cols, k, bias,
                           epilogue);
    }
  }

  // Computes dx = dz W^T.
  static void backward(const BackwardArgs<float>& a, const OpPlan& op,
                       const Scratch<float>& scratch, const Epilogue<float>& epilogue) {
    const Index n = op.n_out;
    const MatrixView<float> to = {a.dx, a.rows, op.n_in, op.n_in};
    if (scratch.right) {
      gemm_bfloat16_packing(*a.bfloat16, to, {a.dz, n, 1}, a.params + op.weight, 1, n,
                            n, nullptr, op.adds_input, scratch.left, scratch.right,
                            epilogue);
    } else {
      gemm_bfloat16(*a.bfloat16, to, {a.dz, n, 1}, a.packed_transposed, n, nullptr,
                    op.adds_input, scratch.left, epilogue);
    }
  }

  // Computes a block of dW = x^T dz. With few outputs, computes its transpose, whose
  // rows fit into one tile.
  static void weight_gradients(const WeightGradientArgs<float>& a, const OpPlan& op,
                               Range rows, Range columns, float* dw) {
    const Index n = op.n_out;
    if (n <= a.bfloat16->mr && rows.size() > n) {
      // The left operand, dz, is packed into the rest of the scratch memory.
      float* const turned = a.scratch.left;
      float* const left = turned + n * rows.size();
      if (a.accumulate) transpose(turned, rows.size(), dw, n, rows.size(), n);
      gemm_bfloat16_packing(*a.bfloat16, {turned, n, rows.size(), rows.size()},
                            {a.dz, 1, n}, a.x + rows.begin, op.n_in, 1, a.rows, nullptr,
                            a.accumulate, left, a.scratch.right, {});
      transpose(dw, n, turned, rows.size(), n, rows.size());
      return;
    }
    gemm_bfloat16_packing(*a.bfloat16, {dw, rows.size(), columns.size(), n},
                          {a.x + rows.begin, 1, op.n_in}, a.dz + columns.begin, n, 1,
                          a.rows, nullptr, a.accumulate, a.scratch.left,
                          a.scratch.right, {});
  }

  static void pack(const Team& team, const Bfloat16Kernels& kernels, const OpPlan& op,
                   const float* params, float* packed) {
    pack_columns(team, kernels, params + op.weight, op.n_out, 1, op.n_in, op.n_out,
                 packed);
  }
  static void pack_transposed(const Team& team, const Bfloat16Kernels& kernels,
                              const OpPlan& op, const float* params, float* packed) {
    pack_columns(team, kernels, params + op.weight, 1, op.n_out, op.n_out, op.n_in,
                 packed);
  }

 private:
  // Packs this member's columns of the k x n matrix b[p * rs + j * cs].
  static void pack_columns(const Team& team, const Bfloat16Kernels& kernels,
                           const float* b, Index rs, Index cs, Index k, Index n,
                           float* packed) {
    const Range columns = team.share(n, kernels.nr);
    const Index stride = bfloat16_panel_stride(kernels, k);
    kernels.pack_right(packed + columns.begin / kernels.nr * stride, stride,
                       b + columns.begin * cs, rs, cs, k, columns.size());
  }
};

}  // namespace fastmlp::detail
