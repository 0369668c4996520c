// How many threads the library may use. Results never depend on it.
#pragma once

#include "fastmlp/types.h"

namespace fastmlp {

// The number of threads that large work is split over now: what set_num_threads asked
// for, else the least of OpenMP's current limit (OMP_NUM_THREADS, omp_set_num_threads),
// the CPU affinity of the process and its cgroup quota. 1 in a forked child, where
// OpenMP's threads are gone. A limit put on OpenMP after set_num_threads is obeyed too.
int num_threads();

// n >= 1, of which at most 8, or 4 for each CPU, are used; 0: back to automatic. Throws
// std::invalid_argument for n < 0.
void set_num_threads(int n);

// How many threads are worth waking for `flops` operations that can be cut into
// `parts`: 1 for little work, num_threads() at most. (Of little work a thread that
// happens to be awake may take a part all the same.)
int threads_for_work(double flops, Index parts);

bool built_with_openmp();

}  // namespace fastmlp
