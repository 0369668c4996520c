#include "solvers/cholesky.h"

#include <algorithm>
#include <cmath>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/gemm.h"
#include "threading/parallel.h"

namespace fastmlp {
namespace {

constexpr Index kBlock = 64;  // columns factored at a time
constexpr Index kBand = 192;  // columns of A22 updated by one product

// Factors a small block column by column. `column`: memory for n elements. Returns
// false if the block is not positive definite.
bool factor_block(double* a, Index n, Index ld, double* column) {
  for (Index k = 0; k < n; ++k) {
    const double pivot = a[k * ld + k];
    if (!(pivot > 0.0) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    a[k * ld + k] = root;
    for (Index i = k + 1; i < n; ++i) {
      double* const row = a + i * ld;
      const double l = row[k] / root;
      row[k] = column[i] = l;
      for (Index j = k + 1; j <= i; ++j) row[j] -= l * column[j];
    }
  }
  return true;
}

}  // namespace

bool cholesky(double* a, Index n) {
  const Index rest = std::max<Index>(0, n - kBlock);
  const AlignedBuffer<double> scratch(kBlock * (kBlock + 1) + rest * kBlock);
  double* const column = scratch.data();
  double* const upper = column + kBlock;             // L11^T, by rows
  double* const negative = upper + kBlock * kBlock;  // -L21
  for (Index k = 0; k < n; k += kBlock) {
    const Index width = std::min(kBlock, n - k);
    double* const corner = a + k * n + k;
    if (!factor_block(corner, width, n, column)) return false;
    const Index below = n - k - width;
    if (below == 0) break;

    // L21 = A21 L11^-T, row by row.
    for (Index i = 0; i < width; ++i) {
      for (Index j = 0; j <= i; ++j) upper[j * kBlock + i] = corner[i * n + j];
    }
    double* const panel = corner + width * n;
    const double flops = static_cast<double>(below * width * width);
    run_team(plan_team(flops, below), [&](const Team& team) {
      const Range rows = team.share(below);
      for (Index i = rows.begin; i < rows.end; ++i) {
        double* const row = panel + i * n;
        for (Index p = 0; p < width; ++p) {
          const double* const u = upper + p * kBlock;
          const double l = row[p] / u[p];
          row[p] = l;
          negative[i * kBlock + p] = -l;
          for (Index j = p + 1; j < width; ++j) row[j] -= l * u[j];
        }
      }
    });

    // A22 -= L21 L21^T, the lower triangle by bands of columns.
    for (Index j = 0; j < below; j += kBand) {
      const Index band = std::min(kBand, below - j);
      gemm_nt<double>({panel + j * n + width + j, below - j, band, n},
                      {negative + j * kBlock, below - j, width, kBlock},
                      {panel + j * n, band, width, n}, true);
    }
  }
  return true;
}

void cholesky_solve(const double* l, Index n, double* b) {
  const KernelTable<double>& table = kernels<double>();
  for (Index i = 0; i < n; ++i) {
    b[i] = (b[i] - table.dot(l + i * n, b, i)) / l[i * n + i];
  }
  for (Index i = n - 1; i >= 0; --i) {
    b[i] /= l[i * n + i];
    table.axpy(b, l + i * n, -b[i], i);
  }
}

}  // namespace fastmlp
