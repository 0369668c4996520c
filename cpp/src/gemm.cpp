#include "fastmlp/gemm.h"

#include <algorithm>

#include "fastmlp/aligned_buffer.h"
#include "gemm_blocks.h"
#include "threading/parallel.h"
#include "threading/stop.h"

namespace fastmlp {
namespace detail {
namespace {

// The least length of contiguous rows of the left operand for which packing pays: rows
// that are some power of 2 apart evict each other from the level-1 cache.
constexpr Index kLongRow = 1024;

}  // namespace

template <class T>
Index left_scratch_size(Index m, Index k) {
  return most_left_elements(gemm_limits<T>(), m, k);
}

template <class T>
Index right_scratch_size(Index k, Index n) {
  return most_right_elements(gemm_limits<T>(), k, n);
}

namespace {

// block_of_b(p, j, kp, nj) returns the operand for kp rows and nj columns of B from
// (p, j) on. If the call is asked to stop, C is left unfinished.
template <class T, class BlockOfB>
void gemm_in_blocks(const KernelTable<T>& table, MatrixView<T> c, LeftOperand<T> a,
                    BlockOfB block_of_b, Index k, const T* bias, bool accumulate,
                    T* left_scratch, const Epilogue<T>& epilogue) {
  const Index m = c.rows, n = c.cols;
  const bool pack = left_scratch && (a.cs != 1 || k >= kLongRow) && m > kStripRows &&
                    n > 2 * table.nr;
  const GemmBlocks blocks = gemm_blocks(gemm_limits<T>(), m, n, k, table.nr);
  const Index kc = blocks.kc, mc = blocks.mc, nc = blocks.nc;
  LeftOperand<T> left = {};
  RightOperand<T> right = {};
  const auto take_left = [&](Index i, Index p) {
    left = {a.data + i * a.rs + p * a.cs, a.rs, a.cs};
    if (!pack) return;
    table.pack_left(left_scratch, left, std::min(m - i, mc), std::min(k - p, kc));
    left = {left_scratch, 1, table.mr};
  };
  const auto take_right = [&](Index p, Index j) {
    right = block_of_b(p, j, std::min(k - p, kc), std::min(n - j, nc));
  };
  const auto multiply = [&](Index i, Index p, Index j) {
    Epilogue<T> at_end;
    if (p + kc >= k) {
      at_end = epilogue;
      if (epilogue.saved) at_end.saved += i * epilogue.ld + j;
    }
    table.gemm(c.data + i * c.ld + j, c.ld, left, right, std::min(m - i, mc),
               std::min(n - j, nc), std::min(k - p, kc),
               p == 0 && bias ? bias + j : nullptr, accumulate || p > 0, at_end);
  };
  for_each_block(blocks, m, n, k, take_left, take_right, multiply);
}

}  // namespace

template <class T>
void gemm_blocked(const KernelTable<T>& table, MatrixView<T> c, LeftOperand<T> a,
                  RightOperand<T> b, Index k, const T* bias, bool accumulate,
                  T* left_scratch, const Epilogue<T>& epilogue) {
  // A single strip uses B only once, so B is best read from end to end.
  if (c.rows <= kStripRows) {
    return table.gemm(c.data, c.ld, a, b, c.rows, c.cols, k, bias, accumulate,
                      epilogue);
  }
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
  template Index left_scratch_size<T>(Index, Index);                                \
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

// C = S + A B with B(p, j) = b[p * rs + j * cs]. The rows of C are divided among the
// threads. With many rows, each thread packs the blocks of B that it needs when it
// needs them; with fewer, the threads together pack B once for all, in bands.
template <class T>
void gemm_threaded(MatrixView<T> c, LeftOperand<T> a, const T* b, Index rs, Index cs,
                   Index k, const T* bias, bool accumulate) {
  const KernelTable<T>& table = kernels<T>();
  const Index n = c.cols;
  // Packing is always needed if the rows of B are not contiguous.
  const bool pack = cs != 1 || packing_pays(table, c.rows, n, k, rs);
  const double flops = 2.0 * static_cast<double>(c.rows) * static_cast<double>(n) *
                       static_cast<double>(k);
  const TeamPlan plan = plan_team(flops, (c.rows + table.mr - 1) / table.mr);
  const bool pack_alone =
      pack && (plan.most == 1 || c.rows / plan.most >= kRowsForPackingAlone);
  const bool pack_together = pack && !pack_alone;
  // Packing together works on bands of B: a large B packed as a whole would need much
  // memory and leave the cache before it is used.
  constexpr Index kBandBytes = 8 << 20, kBandSteps = 4096;
  const Index k_band = pack_together ? std::min(k, kBandSteps) : k;
  const Index panels = kBandBytes / static_cast<Index>(sizeof(T)) / table.nr /
                       std::max<Index>(k_band, 1);
  const Index n_band = pack_together ? std::min(n, panels * table.nr) : n;
  const Index shared_size =
      pack_together ? packed_right_size(table, k_band, n_band) : 0;
  const Index left_size = left_scratch_size<T>(c.rows, k);
  const Index right_size = pack_alone ? right_scratch_size<T>(k, n) : 0;
  const AlignedBuffer<T> scratch(shared_size + plan.most * (left_size + right_size));

  run_team(plan, [&](const Team& team) {
    T* const left_scratch =
        scratch.data() + shared_size + team.rank() * (left_size + right_size);
    const Range rows = team.share(c.rows, table.mr);
    const MatrixView<T> c_rows = {c.row(rows.begin), rows.size(), n, c.ld};
    const LeftOperand<T> a_rows = {a.data + rows.begin * a.rs, a.rs, a.cs};
    if (pack_alone) {
      gemm_packing(table, c_rows, a_rows, b, rs, cs, k, bias, accumulate, left_scratch,
                   left_scratch + left_size);
      return;
    }
    if (!pack_together) {
      return gemm_blocked(table, c_rows, a_rows, plain_right(table, b, rs), k, bias,
                          accumulate, left_scratch);
    }
    for (Index j = 0; j < n; j += n_band) {
      const Index nj = std::min(n - j, n_band);
      const Range mine = team.share(nj, table.nr);
      for (Index p = 0; p < k || p == 0; p += k_band) {
        const Index kp = std::min(k - p, k_band);
        if (j > 0 || p > 0) team.barrier();  // wait until no thread uses the last band
        table.pack_right(scratch.data() + mine.begin * kp, kp * table.nr,
                         b + p * rs + (j + mine.begin) * cs, rs, cs, kp, mine.size());
        team.barrier();
        gemm_blocked(table, {c_rows.data + j, rows.size(), nj, c.ld},
                     {a_rows.data + p * a.cs, a.rs, a.cs},
                     packed_right<T>(table, scratch.data(), kp), kp,
                     p == 0 && bias ? bias + j : nullptr, accumulate || p > 0,
                     left_scratch);
      }
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
