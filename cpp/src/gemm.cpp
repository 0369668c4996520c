#include "fastmlp/gemm.h"

#include <algorithm>

#include "fastmlp/aligned_buffer.h"
#include "threading/parallel.h"

namespace fastmlp {
namespace detail {
namespace {

// Sizes of blocks in elements. A large kKc is faster than a right block that fits into
// the second-level cache, because C is read and written once per kKc steps of k, and
// the distance between rows of C is often a power of two, so that they evict each other
// from the cache.
constexpr Index kKc = 1024;
constexpr Index kMc = 4 * kRowGrain;
template <class T>
constexpr Index kNc = 32 * kMostPanelColumns * sizeof(float) / sizeof(T);
// The least length of contiguous rows of the left operand for which packing pays: a
// strip of such rows fills the first-level cache, so the order of access matters.
constexpr Index kLongRow = 1024;

}  // namespace

Index left_scratch_size(Index k) { return kMc * std::min(k, kKc); }

template <class T>
Index right_scratch_size(Index k, Index n) {
  return packed_right_bound(std::min(k, kKc), std::min(n, kNc<T>));
}

namespace {

// right_block(p, j, kp, nj) returns the operand for kp rows and nj columns of B from
// (p, j) on.
template <class T, class RightBlock>
void gemm_in_blocks(const KernelTable<T>& table, MatrixView<T> c, LeftOperand<T> a,
                    RightBlock right_block, Index k, const T* bias, bool accumulate,
                    T* left_scratch, const Epilogue<T>& epilogue) {
  const Index m = c.rows, n = c.cols;
  const bool pack =
      left_scratch && (a.cs != 1 || k >= kLongRow) && m >= table.mr && n > 2 * table.nr;
  for (Index j = 0; j < n; j += kNc<T>) {
    const Index nj = std::min(n - j, kNc<T>);
    for (Index p = 0; p < k || p == 0; p += kKc) {
      const Index kp = std::min(k - p, kKc);
      const RightOperand<T> right = right_block(p, j, kp, nj);
      const T* init = p == 0 && bias ? bias + j : nullptr;
      for (Index i = 0; i < m; i += kMc) {
        const Index mi = std::min(m - i, kMc);
        LeftOperand<T> left = {a.data + i * a.rs + p * a.cs, a.rs, a.cs};
        if (pack) {
          table.pack_left(left_scratch, left, mi, kp);
          left = {left_scratch, 1, table.mr};
        }
        Epilogue<T> at_end;
        if (p + kp == k) {
          at_end = epilogue;
          if (epilogue.saved) at_end.saved += i * epilogue.ld + j;
        }
        table.gemm(c.data + i * c.ld + j, c.ld, left, right, mi, nj, kp, init,
                   accumulate || p > 0, at_end);
      }
    }
  }
}

}  // namespace

template <class T>
void gemm_blocked(const KernelTable<T>& table, MatrixView<T> c, LeftOperand<T> a,
                  RightOperand<T> b, Index k, const T* bias, bool accumulate,
                  T* left_scratch, const Epilogue<T>& epilogue) {
  const auto block = [&](Index p, Index j, Index, Index) -> RightOperand<T> {
    return {b.data + j / table.nr * b.panel_stride + p * b.ld, b.ld, b.panel_stride};
  };
  gemm_in_blocks(table, c, a, block, k, bias, accumulate, left_scratch, epilogue);
}

template <class T>
void gemm_packing(const KernelTable<T>& table, MatrixView<T> c, LeftOperand<T> a,
                  const T* b, Index rs, Index cs, Index k, const T* bias,
                  bool accumulate, T* left_scratch, T* right_scratch,
                  const Epilogue<T>& epilogue) {
  const auto block = [&](Index p, Index j, Index kp, Index nj) {
    table.pack_right(right_scratch, kp * table.nr, b + p * rs + j * cs, rs, cs, kp, nj);
    return packed_right<T>(table, right_scratch, kp);
  };
  gemm_in_blocks(table, c, a, block, k, bias, accumulate, left_scratch, epilogue);
}

#define FASTMLP_INSTANTIATE(T)                                                      \
  template Index right_scratch_size<T>(Index, Index);                               \
  template void gemm_blocked(const KernelTable<T>&, MatrixView<T>, LeftOperand<T>,  \
                             RightOperand<T>, Index, const T*, bool, T*,            \
                             const Epilogue<T>&);                                   \
  template void gemm_packing(const KernelTable<T>&, MatrixView<T>, LeftOperand<T>,  \
                             const T*, Index, Index, Index, const T*, bool, T*, T*, \
                             const Epilogue<T>&);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

namespace {

// C = S + A B with B(p, j) = b[p * rs + j * cs]. B is packed once; the rows of C are
// divided among the threads.
template <class T>
void gemm_threaded(MatrixView<T> c, LeftOperand<T> a, const T* b, Index rs, Index cs,
                   Index k, const T* bias, bool accumulate) {
  const KernelTable<T>& table = kernels<T>();
  const Index n = c.cols;
  // Packing is always needed if the rows of B are not contiguous.
  const bool pack = cs != 1 || c.rows >= table.packing_pays;
  const double flops = 2.0 * static_cast<double>(c.rows) * static_cast<double>(n) *
                       static_cast<double>(k);
  const TeamPlan plan = plan_team(flops, (c.rows + table.mr - 1) / table.mr);
  // B is packed in bands of columns. If a large B were packed as a whole, it would
  // touch more pages and be out of the cache before it is used.
  constexpr Index kBandBytes = 8 << 20;
  const Index band_panels = std::max<Index>(
      1, kBandBytes / static_cast<Index>(sizeof(T)) / table.nr / std::max<Index>(k, 1));
  const Index band = pack ? std::min(n, band_panels * table.nr) : n;
  const Index left_size = left_scratch_size(k);
  const Index right_size = pack ? packed_right_size(table, k, band) : 0;
  const AlignedBuffer<T> scratch(right_size + plan.most * left_size);

  run_team(plan, [&](const Team& team) {
    const Range rows = team.share(c.rows, table.mr);
    T* const left_scratch = scratch.data() + right_size + team.rank() * left_size;
    for (Index j = 0; j < n; j += band) {
      const Index nj = std::min(n - j, band);
      RightOperand<T> right = plain_right(table, b, rs);
      if (pack) {
        if (j > 0) team.barrier();  // wait until no thread uses the previous band
        const Range mine = team.share(nj, table.nr);
        table.pack_right(scratch.data() + mine.begin * k, k * table.nr,
                         b + (j + mine.begin) * cs, rs, cs, k, mine.size());
        team.barrier();
        right = packed_right<T>(table, scratch.data(), k);
      }
      gemm_blocked(table, {c.row(rows.begin) + j, rows.size(), nj, c.ld},
                   {a.data + rows.begin * a.rs, a.rs, a.cs}, right, k,
                   bias ? bias + j : nullptr, accumulate, left_scratch);
    }
  });
}

}  // namespace
}  // namespace detail

template <class T>
void gemm_nn(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
             const T* bias, bool accumulate) {
  detail::gemm_threaded<T>(c, {a.data, a.ld, 1}, b.data, b.ld, 1, a.cols, bias,
                           accumulate);
}
template <class T>
void gemm_nt(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
             bool accumulate) {
  detail::gemm_threaded<T>(c, {a.data, a.ld, 1}, b.data, 1, b.ld, a.cols, nullptr,
                           accumulate);
}
template <class T>
void gemm_tn(MatrixView<T> c, MatrixView<const T> a, MatrixView<const T> b,
             bool accumulate) {
  detail::gemm_threaded<T>(c, {a.data, 1, a.ld}, b.data, b.ld, 1, a.rows, nullptr,
                           accumulate);
}

#define FASTMLP_INSTANTIATE(T)                                                   \
  template void gemm_nn(MatrixView<T>, MatrixView<const T>, MatrixView<const T>, \
                        const T*, bool);                                         \
  template void gemm_nt(MatrixView<T>, MatrixView<const T>, MatrixView<const T>, \
                        bool);                                                   \
  template void gemm_tn(MatrixView<T>, MatrixView<const T>, MatrixView<const T>, bool);
FASTMLP_INSTANTIATE(float)
FASTMLP_INSTANTIATE(double)
#undef FASTMLP_INSTANTIATE

}  // namespace fastmlp
