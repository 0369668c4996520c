// The only file that names every instruction set: those compiled in, those that the
// machine can run, and the active one.
#include "fastmlp/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "fastmlp/kernel_table.h"

#if defined(FASTMLP_HAVE_avx2) || defined(FASTMLP_HAVE_avx512)
#include "dispatch/x86.h"
#endif

namespace fastmlp {

// One declaration per instruction set. FASTMLP_HAVE_x means that the build (CMake)
// links the table of x, not that this file is compiled with the flags of x.
namespace scalar {
extern const KernelTables kKernels;
}
#ifdef FASTMLP_HAVE_neon
namespace neon {
extern const KernelTables kKernels;
}
#endif
#ifdef FASTMLP_HAVE_avx2
namespace avx2 {
extern const KernelTables kKernels;
}
#endif
#ifdef FASTMLP_HAVE_avx512
namespace avx512 {
extern const KernelTables kKernels;
}
#endif

namespace {

#if defined(FASTMLP_HAVE_avx2) || defined(FASTMLP_HAVE_avx512)
const X86& x86() {
  static const X86 found;
  return found;
}
#endif

struct Entry {
  Isa isa;
  const KernelTables* tables;
  bool (*runs_here)();
};

// From the portable instruction set to the best one.
const Entry kEntries[] = {
    {Isa::scalar, &scalar::kKernels, [] { return true; }},
#ifdef FASTMLP_HAVE_neon
    {Isa::neon, &neon::kKernels, [] { return true; }},  // every aarch64 CPU has NEON
#endif
#ifdef FASTMLP_HAVE_avx2
    {Isa::avx2, &avx2::kKernels, [] { return x86().avx2; }},
#endif
#ifdef FASTMLP_HAVE_avx512
    {Isa::avx512, &avx512::kKernels, [] { return x86().avx512; }},
#endif
};

const Entry& find(const std::string& name, const char* asked_by) {
  std::string known;
  for (const Entry& entry : kEntries) {
    if (!entry.runs_here()) continue;
    if (name == isa_name(entry.isa)) return entry;
    known += std::string(known.empty() ? "" : ", ") + isa_name(entry.isa);
  }
  throw std::invalid_argument(std::string(asked_by) + ": the instruction set '" + name +
                              "' is not available here; available: " + known);
}

std::atomic<const Entry*> active{nullptr};

const Entry& active_entry() {
  const Entry* entry = active.load(std::memory_order_acquire);
  if (entry) return *entry;
  const char* name = std::getenv("FASTMLP_ISA");
  if (name && *name) {
    entry = &find(name, "environment variable FASTMLP_ISA");
  } else {
    for (const Entry& candidate : kEntries) {
      if (candidate.runs_here()) entry = &candidate;
    }
  }
  active.store(entry, std::memory_order_release);
  return *entry;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::neon:
      return "neon";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "unknown";
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Entry& entry : kEntries) {
    if (entry.runs_here()) isas.push_back(entry.isa);
  }
  return isas;
}

Isa active_isa() { return active_entry().isa; }

void set_active_isa(const std::string& name) { active.store(&find(name, "isa")); }

const KernelTables& active_kernels() { return *active_entry().tables; }

}  // namespace fastmlp
