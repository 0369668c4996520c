// The instruction sets: those of this build, those of this machine, and the active one.
#pragma once

#include <string>
#include <vector>

#include "fastmlp/types.h"

namespace fastmlp {

const char* isa_name(Isa isa);

// Instruction sets that are compiled in and runnable on this machine (by CPUID, and by
// XCR0 for the registers that the system saves), from the portable to the best one.
std::vector<Isa> available_isas();

// The instruction set of the kernels in use. Initially the one that the environment
// variable FASTMLP_ISA names, else the best available one. Throws std::invalid_argument
// if FASTMLP_ISA names one that is not available.
Isa active_isa();

// Throws std::invalid_argument, which lists the available ones, if `name` is not one of
// them.
void set_active_isa(const std::string& name);

}  // namespace fastmlp
