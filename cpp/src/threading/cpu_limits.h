// How many CPUs the operating system grants this process.
#pragma once

namespace fastmlp::detail {

// CPUs in the affinity mask of the calling thread, or of the machine where there are no
// such masks. At least 1.
int affinity_limit();

// The lesser of affinity_limit() and the CPU quota of the process's cgroups (versions 1
// and 2), rounded up to whole CPUs. At least 1; at most 0.1 s old.
int cpu_limit();

}  // namespace fastmlp::detail
