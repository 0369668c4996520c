// A helper thread that spins between short parallel regions.
//
// For a region of 20 to 200 us, such as a training step of a small network, waking a
// thread costs more than it saves. The helper, one for the whole process, therefore
// spins for a little while after each region, so that it can start on the next one
// within a fraction of a microsecond. If no region follows, it goes to sleep. It is
// only woken where regions follow each other closely, and it is never waited for before
// it has begun: while it sleeps, or another process has its CPU, the caller simply
// works alone.
//
// Effect of the helper, in us per training step (AMD EPYC, Zen 4; bench/README.md):
//
//   network                                         alone   with the helper
//   rl-tiny: 4-64-64-2, 64 rows                      23.6      20.0
//   16-64-64-64-4 with layer norm, 128 rows            90        74
//   two residual blocks of width 64, 128 rows         141        95
//   ... with layer norm and dropout                   189       135
//   sk-default: 20-100-1, 200 rows                   27.6      27.6
//
// The last network gains nothing, and helper_policy.h soon finds that out by
// measurement.
//
// Large regions run on OpenMP's threads and not on a thread pool of the library.
// OMP_NUM_THREADS, omp_set_num_threads and threadpoolctl are thus obeyed, and other
// libraries with the same OpenMP runtime share its threads instead of competing for
// CPUs with a second pool. Short regions cannot use OpenMP: a team starts only when all
// its members have started, and whether its idle threads spin or sleep is a setting of
// the whole process. The limits on threads hold for the helper as well: it is used only
// if num_threads() is above 1.
//
// The states of the helper, and who changes them (C: caller, H: helper):
//
//     asleep --C--> waking --H--> ready --C--> offered --H--> working --H--> done
//       ^                         |  ^ ^          |                            |
//       +-----------H-------------+  | +----C-----+                            |
//                                    +-------------------C---------------------+
//
//   asleep    It waits on a condition variable, or the thread does not exist yet.
//   waking    A caller has notified it and works alone; it does not spin yet.
//   ready     It spins without work, and goes to sleep after a while.
//   offered   A caller has offered a job, and withdraws it if it is not taken at once.
//   working   It runs the job, while the caller runs its own part.
//   done      The job has returned; the caller has not noticed yet.
#pragma once

#include <chrono>

namespace fastmlp::detail {

// Offers f(context) to the helper and returns whether the helper has begun; f must not
// throw. If it has begun, the caller must call join_helper before anything that f uses
// goes away. If not, the helper may have been woken for later calls. `time_alone`:
// about how long the caller takes without the helper.
bool try_start_helper(void (*f)(void*), void* context,
                      std::chrono::microseconds time_alone);

// Waits until f has returned.
void join_helper();

}  // namespace fastmlp::detail
