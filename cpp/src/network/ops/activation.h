// An activation as an op: h = act(x).
#pragma once

#include "network/ops/op.h"
#include "threading/fork_safety.h"

namespace fastmlp::detail {

// d = f'(z), n elements.
template <class T>
void custom_derivative(const OpPlan& op, T* d, const T* z, Index n) {
  const InUserCode in_user_code;
  op.custom->derivative(d, z, n);
}

struct ActivationOp : OpDefaults {
  // `start`: the op whose output is the input of the sequence of layers.
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int start) {
    if (!spec.custom && op.input != start) {
      // The activation becomes part of the op before it, if that op has no activation
      // yet.
      OpPlan& before = net.ops.back();
      if (before.activation == Activation::identity && !before.custom &&
          !before.is_identity_at_inference) {
        before.activation = checked(spec.activation);
        return op.input;
      }
    }
    op.activation = checked(spec.activation);
    op.custom = spec.custom;
    op.n_kept = spec.custom ? op.n_out : 0;
    op.works_in_place = true;
    return net.push(std::move(op));
  }

  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index n = op.n_out;
    if (op.custom) {
      const InUserCode in_user_code;
      return op.custom->forward(a.h, a.x, a.rows * n);
    }
    a.table.activation_forward(op.activation, a.h, n, a.x, n, a.rows, n);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    const Index size = a.rows * op.n_out;
    if (op.custom) {
      custom_derivative(op, a.kept, a.x, size);
      a.table.multiply(a.dz, a.dz, a.kept, size);
    } else {
      activation_backward(a, op, a.x);
    }
    pass_gradient_on(a, op);
  }
};

}  // namespace fastmlp::detail
