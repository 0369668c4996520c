// Periodic embeddings of numbers (Gorishniy et al. 2022, section 3.3): for column c of
// the input, h_c = [sin(z_c), cos(z_c)] with z_cj = 2 pi w_cj x_c and learned
// frequencies w (n_in, k). Sums over the outputs of a column run in their order.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "network/ops/op.h"

namespace fastmlp::detail {

struct PeriodicOp : OpDefaults {
  static int plan(NetworkPlan& net, const LayerSpec& spec, OpPlan op, int /*start*/) {
    if (spec.width < 1)
      throw std::invalid_argument(
          "a periodic layer must have at least one frequency, got " +
          std::to_string(spec.width));
    op.weight = net.add_params(op.n_in, spec.width);
    op.weight_size = op.n_in * spec.width;
    op.n_out = net.joined_width(op.weight_size, op.weight_size);
    op.n_kept = op.n_out;
    op.moves_columns = true;
    return net.push(std::move(op));
  }

  template <class T>
  static void initialize(const OpPlan& op, size_t index, T* params, uint64_t seed) {
    constexpr double kDeviation = 0.1;
    draw_weights(op, index, params, seed, kDeviation * kDeviation);
  }

  template <class T>
  static void take_row_memory(Arena<T>& arena, const OpPlan& op, Index rows,
                              OpMemory<T>& memory) {
    memory.kept = arena.take(rows * op.n_kept);
  }

  // Keeps the slopes [cos(z_c), -sin(z_c)].
  template <class T>
  static void forward(const ForwardArgs<T>& a, const OpPlan& op) {
    const Index k = frequencies(op), m = a.rows * op.n_in;
    T* const sines = a.z;
    T* const cosines = a.z + k;
    for (Index i = 0; i < m; ++i) {
      const T* const w = a.params + op.weight + i % op.n_in * k;
      for (Index j = 0; j < k; ++j) sines[2 * i * k + j] = kTurn<T> * w[j] * a.x[i];
    }
    a.table.activation_forward(Activation::cos, cosines, 2 * k, sines, 2 * k, m, k);
    a.table.activation_forward(Activation::sin, sines, 2 * k, sines, 2 * k, m, k);
    for (Index i = 0; i < m && a.kept; ++i) {
      T* const slopes = a.kept + 2 * i * k;
      std::copy_n(cosines + 2 * i * k, k, slopes);
      for (Index j = 0; j < k; ++j) slopes[k + j] = -sines[2 * i * k + j];
    }
    activate(a, op);
  }

  template <class T>
  static void backward(const BackwardArgs<T>& a, const OpPlan& op) {
    activation_backward(a, op, a.z);
    to_input(op, a.params, a.dx, a.dz, a.kept, a.rows, 1, op.adds_input);
  }

  // Each member owns some of the frequencies, for which it runs over all rows in order.
  template <class T>
  static bool weight_gradients(const WeightGradientArgs<T>& a, const OpPlan& op) {
    const Range mine = a.team.share(op.weight_size, a.table.lanes);
    const Index k = frequencies(op);
    T* const grads = a.grads + op.weight;
    if (!a.accumulate) std::fill(grads + mine.begin, grads + mine.end, T(0));
    for (Index r = 0; r < a.rows; ++r) {
      const T* const d = a.dz + r * op.n_out;
      const T* const slopes = a.kept + r * op.n_out;
      for (Index i = mine.begin; i < mine.end; ++i) {
        const T x = a.x[r * op.n_in + i / k];
        grads[i] += kTurn<T> * x * of_angle(d, slopes, i / k * 2 * k + i % k, k);
      }
    }
    return a.table.all_finite(grads + mine.begin, mine.size(), 1, mine.size());
  }

  static constexpr bool is_linear = false;

  template <class T>
  static void tangent(const DirectionArgs<T>& a, const OpPlan& op, T* out, const T* t,
                      const T* /*other*/) {
    const Index k = frequencies(op);
    for (Index r = 0; r < a.all(); ++r) {
      const T* const slopes = a.kept + r / a.directions * op.n_out;
      for (Index i = 0; i < op.weight_size; ++i) {
        const Index at = i / k * 2 * k + i % k;
        const T angle = angle_of(op, a.params, i) * t[r * op.n_in + i / k];
        out[r * op.n_out + at] = slopes[at] * angle;
        out[r * op.n_out + at + k] = slopes[at + k] * angle;
      }
    }
  }

  template <class T>
  static void cotangent(const DirectionArgs<T>& a, const OpPlan& op,
                        const CotangentArgs<T>& c) {
    to_input(op, a.params, c.dx, c.dz, a.kept, a.rows, a.directions, c.adds_input);
  }

  template <class T>
  static void row_gradients(const DirectionArgs<T>& a, const OpPlan& op, T* grads,
                            Index stride, const T* x, const T* dz) {
    const Index k = frequencies(op);
    for (Index r = 0; r < a.all(); ++r) {
      const Index row = r / a.directions;
      for (Index i = 0; i < op.weight_size; ++i) {
        grads[r * stride + op.weight + i] =
            kTurn<T> * x[row * op.n_in + i / k] *
            of_angle(dz + r * op.n_out, a.kept + row * op.n_out, i / k * 2 * k + i % k,
                     k);
      }
    }
  }

  // The second derivatives of [sin, cos] are [-sin, -cos]: the slopes exchanged, the
  // second of them with the opposite sign.
  template <class T>
  static void second(const DirectionArgs<T>& a, const OpPlan& op,
                     const CotangentArgs<T>& c, const T* dz, const T* t) {
    const Index k = frequencies(op);
    for (Index r = 0; r < a.all(); ++r) {
      const Index row = r / a.directions;
      const T* const slopes = a.kept + row * op.n_out;
      const T* const own = dz + row * op.n_out;
      for (Index column = 0; column < op.n_in; ++column) {
        const T along = t[r * op.n_in + column];
        T sum = 0;
        for (Index j = 0; j < k; ++j) {
          const Index at = column * 2 * k + j;
          const T angle = angle_of(op, a.params, column * k + j);
          const T bend = own[at] * slopes[at + k] - own[at + k] * slopes[at];
          sum += angle * angle * along * bend;
          if (c.dz) sum += angle * of_angle(c.dz + r * op.n_out, slopes, at, k);
        }
        T& to = c.dx[r * op.n_in + column];
        to = c.adds_input ? to + sum : sum;
      }
    }
  }

 private:
  template <class T>
  static constexpr T kTurn = T(6.283185307179586476925286766559L);  // 2 pi

  static Index frequencies(const OpPlan& op) { return op.weight_size / op.n_in; }

  // The derivative of the angle of frequency i with respect to its column.
  template <class T>
  static T angle_of(const OpPlan& op, const T* params, Index i) {
    return kTurn<T> * params[op.weight + i];
  }

  // The derivative with respect to an angle, from those of its sine, at `at`, and of
  // its cosine, k elements later.
  template <class T>
  static T of_angle(const T* d, const T* slopes, Index at, Index k) {
    return d[at] * slopes[at] + d[at + k] * slopes[at + k];
  }

  template <class T>
  static void to_input(const OpPlan& op, const T* params, T* dx, const T* d,
                       const T* slopes, Index rows, Index directions, bool adds) {
    if (!dx) return;
    const Index k = frequencies(op);
    for (Index r = 0; r < rows * directions; ++r) {
      for (Index column = 0; column < op.n_in; ++column) {
        T sum = 0;
        for (Index j = 0; j < k; ++j) {
          sum += angle_of(op, params, column * k + j) *
                 of_angle(d + r * op.n_out, slopes + r / directions * op.n_out,
                          column * 2 * k + j, k);
        }
        T& to = dx[r * op.n_in + column];
        to = adds ? to + sum : sum;
      }
    }
  }
};

}  // namespace fastmlp::detail
