// How many CPUs the operating system grants this process.
#pragma once

namespace fastmlp::detail {

// Number of CPUs in the affinity mask of the calling thread, or in the machine if the
// operating system has no such masks. At least 1.
int affinity_limit();

// The lesser of affinity_limit() and the CPU quota of the process's cgroups (versions 1
// and 2), rounded up to whole CPUs. At least 1. The result may be up to 0.1 s out of
// date.
int cpu_limit();

}  // namespace fastmlp::detail
