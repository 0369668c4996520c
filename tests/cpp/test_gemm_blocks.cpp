// The sizes of blocks follow the caches, and even blocks cover every size.
#include "check.h"
#include "gemm_blocks.h"

namespace {

using namespace fastmlp;
using namespace fastmlp::detail;

constexpr Index kKiB = 1 << 10, kMiB = 1 << 20;

Caches machine(Index l1d, Index l2, Index l3) {
  return {{l1d, 8, 1}, {l2, 8, 1}, {l3, 16, 1}};
}

template <class T>
void check_fit(const Caches& caches) {
  constexpr Index kSize = sizeof(T), kTileRows = 8;
  const GemmBlocks blocks = gemm_blocks<T>(caches);
  CHECK(kTileRows * blocks.kc * kSize <= caches.l1d.bytes / 2);
  CHECK(blocks.kc * blocks.nc * kSize <= caches.l2_of_core() / 2);
  CHECK(blocks.nc % kMostPanelColumns == 0);
  CHECK(blocks.mc % kRowGrain == 0);
  // At least half of what would fit.
  CHECK(4 * kTileRows * blocks.kc * kSize >= caches.l1d.bytes || blocks.kc == 1024);
  CHECK(4 * blocks.kc * blocks.nc * kSize >= caches.l2_of_core() || blocks.nc == 1024);
}

void test_blocks_fit_into_the_caches() {
  for (const Caches& caches :
       {machine(16 * kKiB, 256 * kKiB, 0), machine(32 * kKiB, 512 * kKiB, 32 * kMiB),
        machine(32 * kKiB, kMiB, 32 * kMiB), machine(48 * kKiB, 2 * kMiB, 480 * kMiB),
        machine(128 * kKiB, 4 * kMiB, 0), machine(64 * kKiB, 64 * kMiB, 0)}) {
    check_fit<float>(caches);
    check_fit<double>(caches);
  }
  // The values for the machines that fastmlp is measured on.
  const GemmBlocks zen4 = gemm_blocks<float>(machine(32 * kKiB, kMiB, 32 * kMiB));
  CHECK(zen4.kc == 512 && zen4.nc == 256);
  const GemmBlocks intel =
      gemm_blocks<float>({{48 * kKiB, 12, 1}, {2 * kMiB, 16, 1}, {480 * kMiB, 20, 64}});
  CHECK(intel.kc == 768 && intel.nc == 320);
  CHECK(gemm_blocks<double>(machine(32 * kKiB, kMiB, 0)).kc == 256);
}

void test_tiny_caches_have_least_blocks() {
  const GemmBlocks blocks = gemm_blocks<double>(machine(kKiB, 0, 0));
  CHECK(blocks.kc == 64 && blocks.nc == 64);
}

void test_the_share_of_a_core() {
  // Two threads per core, four cores per level-2 cache.
  CHECK((Caches{{32 * kKiB, 8, 2}, {4 * kMiB, 16, 8}, {}}.l2_of_core()) == kMiB);
  CHECK(machine(32 * kKiB, 0, 0).l2_of_core() == 32 * kKiB);
}

void test_even_blocks() {
  constexpr Index kMost = 96, kGrain = 8;
  for (Index n = 0; n <= 1000; ++n) {
    const Index block = even_block(n, kMost, kGrain);
    CHECK(block > 0 && block <= kMost && block % kGrain == 0);
    if (n == 0) continue;
    const Index blocks = (n + block - 1) / block;
    CHECK(blocks == (n + kMost - 1) / kMost);
    const Index last = n - (blocks - 1) * block;
    CHECK(blocks == 1 || last > block - blocks * kGrain);
  }
  CHECK(even_block(97, kMost, kGrain) == 56);
  CHECK(even_block(192, kMost, kGrain) == 96);
}

}  // namespace

int main() {
  test_blocks_fit_into_the_caches();
  test_tiny_caches_have_least_blocks();
  test_the_share_of_a_core();
  test_even_blocks();
  return failures > 0;
}
