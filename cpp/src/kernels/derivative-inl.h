// Kernels for separate derivatives of each row: operations on groups (the rows of
// several directions that belong to one row of values), outer products, second
// derivatives. Formulas, aliasing and orders of summation: kernel_table.h.
#pragma once

#include "activation-inl.h"
#include "norm-inl.h"
#include "pack-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// Calls body(io, i, j) for the vector at column j of row i, for all columns of m rows.
template <class T, class Body>
FASTMLP_INLINE void for_each_row_vector(Index m, Index n, Body body) {
  for (Index i = 0; i < m; ++i) {
    for_each_vector<T>(n, [&](auto io, Index j) FASTMLP_LAMBDA { body(io, i, j); });
  }
}

// out = f(a, scale) for each row of a group, with the group's row of `scale`, whose
// elements are loaded once per group.
template <class T, class F>
FASTMLP_INLINE void map_groups(T* out, const T* a, Index a_step, const T* scale,
                               Index m, Index group, Index n, F f) {
  const auto body = [&](auto io, Index i, Index j) FASTMLP_LAMBDA {
    T* to = out + i * group * n + j;
    const T* from = a + i * a_step * n + j;
    const Vec<T> s = scale ? io.load(scale + i * n + j) : Vec<T>::set1(T(1));
    for (Index k = 0; k < group; ++k, to += n, from += n) {
      io.store(to, f(io, to, io.load(from), s));
    }
  };
  for_each_row_vector<T>(m, n, body);
}

template <class T>
void scale_groups(T* out, const T* a, Index a_step, const T* scale, bool masks, Index m,
                  Index group, Index n) {
  using V = Vec<T>;
  if (!scale) {
    map_groups(out, a, a_step, scale, m, group, n,
               [](auto, T*, V x, V) FASTMLP_LAMBDA { return x; });
  } else if (masks) {
    map_groups(out, a, a_step, scale, m, group, n,
               [](auto, T*, V x, V s) FASTMLP_LAMBDA { return where_positive(s, x); });
  } else {
    map_groups(out, a, a_step, scale, m, group, n,
               [](auto, T*, V x, V s) FASTMLP_LAMBDA { return x * s; });
  }
}

template <class T>
void add_scaled_groups(T* out, const T* a, Index a_step, const T* scale, Index m,
                       Index group, Index n) {
  using V = Vec<T>;
  map_groups(out, a, a_step, scale, m, group, n,
             [](auto io, T* to, V x, V s)
                 FASTMLP_LAMBDA { return fma(x, s, io.load(to)); });
}

template <class T>
void outer_rows(T* out, Index ldout, const T* x, Index ldx, const T* d, Index m,
                Index group, Index k, Index n) {
  using V = Vec<T>;
  for (Index r = 0; r < m * group; ++r) {
    T* const to = out + r * ldout;
    const T* const row = x + r / group * ldx;
    const T* const from = d + r * n;
    if (n == 1) {
      const V scale = V::set1(*from);
      for_each_vector<T>(k, [&](auto io, Index p) FASTMLP_LAMBDA {
        io.store(to + p, io.load(row + p) * scale);
      });
      continue;
    }
    const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
      const V v = io.load(from + j);
      for (Index p = 0; p < k; ++p) io.store(to + p * n + j, V::set1(row[p]) * v);
    };
    for_each_vector<T>(n, body);
  }
}

// gemm_gather_k for kRows rows of one group and `cols` columns in one panel of B.
template <class T, int kRows, int kVectors>
FASTMLP_INLINE void gathered_tile(T* c, Index ldc, const T* a, Index lda,
                                  const T* panel, const int32_t* list, Index count,
                                  bool accumulate, Index cols) {
  using V = Vec<T>;
  constexpr Index L = V::kLanes;
  V sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const Index left = cols - v * L;
      const T* const from = c + i * ldc + v * L;
      sum[i][v] = !accumulate ? V::set1(T(0))
                  : left >= L ? V::load(from)
                              : V::load_partial(from, left);
    }
  }
  for (Index q = 0; q < count; ++q) {
    const Index p = list[q];
    V b[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      b[v] = V::load(panel + p * tile_columns<T>() + v * L);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const V x = V::set1(a[i * lda + p]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[i][v] = fma(x, b[v], sum[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const Index left = cols - v * L;
      T* const to = c + i * ldc + v * L;
      if (left >= L) {
        sum[i][v].store(to);
      } else {
        sum[i][v].store_partial(to, left);
      }
    }
  }
}

template <class T, int kVectors>
void gathered_rows(T* c, Index ldc, const T* a, Index lda, const T* panel,
                   const int32_t* list, Index count, bool accumulate, Index cols,
                   Index rows) {
  // Split the rows into tiles of about the same height: in a tile of only one or two
  // rows, the multiply-adds would wait for each other's results.
  constexpr Index kMost = 6;
  Index tiles = (rows + kMost - 1) / kMost;
  while (rows > 0) {
    const Index m = (rows + tiles - 1) / tiles;
    switch (m) {
#define X(kRows)                                                                      \
  case kRows:                                                                         \
    gathered_tile<T, kRows, kVectors>(c, ldc, a, lda, panel, list, count, accumulate, \
                                      cols);                                          \
    break;
      X(1)
      X(2)
      X(3)
      X(4)
      X(5)
      X(6)
#undef X
    }
    c += m * ldc;
    a += m * lda;
    rows -= m;
    --tiles;
  }
}

template <class T>
void gemm_gather_k(T* c, const T* a, RightOperand<T> b, const int32_t* list,
                   Index ldlist, const int32_t* count, Index m, Index group, Index n,
                   Index k, bool accumulate) {
  constexpr Index kColumns = tile_columns<T>();
  for (Index j = 0; j < n; j += kColumns) {
    const T* const panel = b.data + j / kColumns * b.panel_stride;
    const Index cols = n - j < kColumns ? n - j : kColumns;
    for (Index i = 0; i < m; ++i) {
      T* const to = c + i * group * n + j;
      const T* const from = a + i * group * k;
      if (cols > Vec<T>::kLanes) {
        gathered_rows<T, 2>(to, n, from, k, panel, list + i * ldlist, count[i],
                            accumulate, cols, group);
      } else {
        gathered_rows<T, 1>(to, n, from, k, panel, list + i * ldlist, count[i],
                            accumulate, cols, group);
      }
    }
  }
}

template <class T, class F>
void map_second(const ActivationSpec& activation, T* out, const T* c, const T* saved,
                Index n) {
  const Constants<T> constants = constants_of<T>(activation);
  for_each_vector<T>(n, [&](auto io, Index i) FASTMLP_LAMBDA {
    io.store(out + i,
             io.load(c + i) * F::template second<T>(io.load(saved + i), constants));
  });
}

template <class T>
void activation_second(const ActivationSpec& activation, T* out, const T* c,
                       const T* saved, Index n) {
  switch (activation.kind) {
#define X(name, F, ...)  \
  case Activation::name: \
    return map_second<T, F>(activation, out, c, saved, n);
    FASTMLP_ELEMENTWISE_ACTIVATIONS(X)
#undef X
    case Activation::softmax:
      return;
  }
}

template <class T>
void softmax_second(T* out, const T* dot, const T* c, const T* t, const T* h, Index m,
                    Index group, Index n) {
  using V = Vec<T>;
  for (Index i = 0; i < m; ++i, c += n, h += n) {
    const auto value = [&](auto io, Index j)
                           FASTMLP_LAMBDA { return io.load(c + j) * io.load(h + j); };
    const V mean = V::set1(sum_of_row<T>(n, value));
    for (Index k = 0; k < group; ++k, out += n, t += n, dot += dot ? n : 0) {
      const auto change = [&](auto io, Index j) FASTMLP_LAMBDA {
        const V by_tangent = io.load(c + j) * io.load(t + j);
        return dot ? fma(io.load(dot + j), io.load(h + j), by_tangent) : by_tangent;
      };
      const V mean_dot = V::set1(sum_of_row<T>(n, change));
      const auto body = [&](auto io, Index j) FASTMLP_LAMBDA {
        const V slope = dot ? io.load(dot + j) - mean_dot : -mean_dot;
        io.store(out + j,
                 fma(io.load(t + j), io.load(c + j) - mean, io.load(h + j) * slope));
      };
      for_each_vector<T>(n, body);
    }
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
