// Which instruction sets this build carries, which the machine can run, and which is
// used.
#pragma once

#include <string>
#include <vector>

#include "fastmlp/types.h"

namespace fastmlp {

const char* isa_name(Isa isa);

// Compiled in and runnable here (CPUID, and XCR0 for the registers the system saves);
// the portable one first, the best one last.
std::vector<Isa> available_isas();

// The one that kernels are taken from. Initially the best available one, or the one
// that the environment variable FASTMLP_ISA names. Throws std::invalid_argument if
// FASTMLP_ISA names one that cannot be used.
Isa active_isa();

// Throws std::invalid_argument, naming the available ones, if `name` is not among them.
void set_active_isa(const std::string& name);

}  // namespace fastmlp
