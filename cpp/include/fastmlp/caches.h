// The data caches of this machine. They decide the sizes of blocks, and so the speed,
// but never the results.
#pragma once

#include "fastmlp/types.h"

namespace fastmlp {

struct Cache {
  Index bytes = 0;  // 0: there is no such cache
  int ways = 1;     // associativity, for information only
  int cpus = 1;     // number of logical CPUs that share it
};

struct Caches {
  Cache l1d, l2, l3;
  // Whether a core gets data from level 3 about as fast as it computes with them.
  // Assumed of AMD's CPUs, where few cores share a cache. The level-3 caches of large
  // CPUs with a mesh of cores are much slower.
  bool l3_is_near = false;
};

// A core's share of the level-2 cache, in bytes; without such a cache, the size of
// level 1. CPUs that share the level-1 cache count as threads of one core.
Index l2_of_core(const Caches& caches);

// The caches, detected by the first call: by CPUID on x86, else from sysfs on Linux and
// by sysctl on macOS. On a CPU with different cores, these are the caches of one of
// them. Sizes that cannot be detected are assumed to be small. The environment
// variables FASTMLP_L1D, FASTMLP_L2 and FASTMLP_L3 replace a cache: a size such as
// "48K" or "2M", or "0" for no cache (not for level 1), optionally followed by the ways
// and the CPUs, such as "2M/16/2". FASTMLP_NEAR_L3, "0" or "1", replaces l3_is_near,
// which is false without a level-3 cache. Throws std::invalid_argument if such a
// variable cannot be understood.
const Caches& caches();

// l2_of_core(caches()), computed once.
Index l2_of_core();

}  // namespace fastmlp
