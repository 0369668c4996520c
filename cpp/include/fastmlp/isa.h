// The instruction sets: those of this build, those of this machine, and the active one.
#pragma once

#include <string>
#include <vector>

#include "fastmlp/types.h"

namespace fastmlp {

const char* isa_name(Isa isa);

// Instruction sets that are compiled in and run on this machine, from the portable one
// to the best one. On x86, CPUID tells which of them the processor supports, and XCR0
// tells which registers the operating system saves.
std::vector<Isa> available_isas();

// The instruction set of the kernels in use. Initially this is the one named by the
// environment variable FASTMLP_ISA, or the best available one if that is not set.
// Throws std::invalid_argument if FASTMLP_ISA names one that is not available.
Isa active_isa();

// If `name` is not an available instruction set, throws std::invalid_argument with a
// message that lists those that are available.
void set_active_isa(const std::string& name);

}  // namespace fastmlp
