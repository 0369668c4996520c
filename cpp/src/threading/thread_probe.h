// Whether the system lets this process create threads.
//
// OpenMP's runtime ends the process if it cannot create a thread. Limits on threads are
// common in containers and on shared machines, so a team of OpenMP threads is asked for
// only after as many threads have been created, and have ended, without it.
#pragma once

namespace fastmlp::detail {

// The size of the OpenMP team that the calling thread may ask for: `wanted`, or less if
// threads cannot be created. Another program may take the threads before OpenMP does,
// so this is no guarantee, but it makes an end of the process very unlikely.
int allowed_team(int wanted);

}  // namespace fastmlp::detail
