// The sizes of blocks follow the caches, and even blocks cover every size.
#include "check.h"
#include "gemm_blocks.h"

namespace {

using namespace fastmlp;
using namespace fastmlp::detail;

constexpr Index kKiB = 1 << 10, kMiB = 1 << 20;

Caches machine(Index l1d, Index l2, Index l3, bool near = false) {
  return {{l1d, 8, 1}, {l2, 8, 1}, {l3, 16, 1}, near};
}

// The blocks for a product that is too large for one block.
template <class T>
GemmBlocks large_blocks(const Caches& caches) {
  constexpr Index kMany = 1 << 16, kPanel = 32;
  return gemm_blocks(gemm_limits<T>(caches), kMany, kMany, kMany, kPanel);
}

template <class T>
void check_fit(const Caches& caches) {
  constexpr Index kSize = sizeof(T);
  const GemmLimits limits = gemm_limits<T>(caches);
  for (Index n = 1; n < 5000; n += 1 + n / 7) {
    for (Index k = 1; k < 5000; k += 1 + k / 7) {
      for (const Index m : {Index{9}, Index{97}, Index{3000}}) {
        for (const Index nr : {Index{8}, Index{16}, Index{32}}) {
          const GemmBlocks b = gemm_blocks(limits, m, n, k, nr);
          const Index kc = std::min(k, b.kc), nc = std::min(n, b.nc);
          CHECK(kStripRows * kc * kSize <= caches.l1d.bytes);
          const Index room =
              caches.l3_is_near ? caches.l3.bytes / 8 : l2_of_core(caches) / 2;
          CHECK(kc * nc * kSize <= room);
          CHECK(b.nc % nr == 0 && b.mc % kRowGrain == 0);
          // The memory that is planned suffices, for the last panel and strip too.
          const Index columns = (nc + nr - 1) / nr * nr;
          CHECK(kc * columns <= most_right_elements(limits, k, n));
          const Index rows =
              (std::min(m, b.mc) + kRowGrain - 1) / kRowGrain * kRowGrain;
          CHECK(kc * rows <= most_left_elements(limits, m, k));
        }
      }
    }
  }
}

void test_blocks_fit_into_the_caches() {
  for (const Caches& caches :
       {machine(16 * kKiB, 256 * kKiB, 0),
        machine(32 * kKiB, 512 * kKiB, 32 * kMiB, true),
        machine(32 * kKiB, kMiB, 32 * kMiB, true),
        machine(48 * kKiB, 2 * kMiB, 480 * kMiB), machine(128 * kKiB, 4 * kMiB, 0),
        machine(64 * kKiB, 64 * kMiB, 0)}) {
    check_fit<float>(caches);
    check_fit<double>(caches);
  }
}

// The values for the machines that fastmlp is measured on, and for the least caches.
void test_blocks_of_machines() {
  const GemmBlocks zen4 =
      large_blocks<float>(machine(32 * kKiB, kMiB, 32 * kMiB, true));
  CHECK(zen4.kc == 1024 && zen4.nc == 1024 && zen4.mc == 96 && zen4.keeps_b);
  const GemmBlocks intel = large_blocks<float>(
      {{48 * kKiB, 12, 1}, {2 * kMiB, 16, 1}, {480 * kMiB, 20, 64}, false});
  CHECK(intel.kc == 1024 && intel.nc == 256 && intel.mc == 480 && !intel.keeps_b);
  CHECK(large_blocks<double>(machine(32 * kKiB, kMiB, 0)).kc == 512);
  const GemmBlocks least = large_blocks<double>(machine(kKiB, 0, 0));
  CHECK(least.kc == 64 && least.nc == 64);
}

void test_the_share_of_a_core() {
  // Two threads per core, four cores per level-2 cache.
  CHECK(l2_of_core({{32 * kKiB, 8, 2}, {4 * kMiB, 16, 8}, {}, false}) == kMiB);
  CHECK(l2_of_core(machine(32 * kKiB, 0, 0)) == 32 * kKiB);
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
  test_blocks_of_machines();
  test_the_share_of_a_core();
  test_even_blocks();
  return failures > 0;
}
