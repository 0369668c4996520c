// A thread that stands by: for regions so short that waking a thread would cost more
// than it saves.
//
// After each use it spins for a little while, ready to start within a fraction of a
// microsecond, then sleeps. It is woken only where regions follow each other closely,
// and never waited for before it has begun: a standby whose CPU is taken by someone
// else, or which is asleep, costs next to nothing, the caller just works alone.
#pragma once

#include <chrono>

namespace fastmlp::detail {

// Whether the standby has begun f(context), which must not throw. If so, the caller
// must call join_helper before anything that f uses goes away. `alone`: about how
// long the caller takes without it.
bool try_start_helper(void (*f)(void*), void* context, std::chrono::microseconds alone);

// Returns when f has returned.
void join_helper();

}  // namespace fastmlp::detail
