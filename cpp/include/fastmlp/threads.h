// The number of threads that the library may use. Results never depend on it.
#pragma once

#include "fastmlp/types.h"

namespace fastmlp {

// The number of threads among which large work is divided now: the number given to
// set_num_threads, else the least of OpenMP's current limit (OMP_NUM_THREADS,
// omp_set_num_threads), the CPU affinity of the process and its cgroup quota. 1 in a
// forked child, where OpenMP's threads do not exist. If OpenMP's limit has changed
// since the call of set_num_threads, the result does not exceed the new limit.
int num_threads();

// If n >= 1, uses n threads, but no more than max(8, 4 * number of CPUs). If n is 0,
// which is the default, chooses automatically. Throws std::invalid_argument if n < 0.
void set_num_threads(int n);

// The number of threads worth waking for `flops` operations that can be cut into
// `parts`: 1 for little work, at most num_threads(). (With a result of 1, a helper
// thread that happens to be awake may still take part.)
int threads_for_work(double flops, Index parts);

bool built_with_openmp();

}  // namespace fastmlp
