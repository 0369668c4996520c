// The only file that names every instruction set: those compiled in, those that the
// machine can run, and the active one.
#include "fastmlp/isa.h"

#if defined(FASTMLP_HAVE_amx) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "fastmlp/bfloat16_kernels.h"
#include "fastmlp/kernel_table.h"

#if defined(FASTMLP_HAVE_avx2) || defined(FASTMLP_HAVE_avx512)
#include "dispatch/x86.h"
#endif

namespace fastmlp {

// One declaration per instruction set. FASTMLP_HAVE_x means that the build (CMake)
// links the tables of x, not that this file is compiled with the flags of x.
#define FASTMLP_DECLARE(isa)                     \
  namespace isa {                                \
  extern const KernelTables kKernels;            \
  extern const Bfloat16Kernels kBfloat16Kernels; \
  }
FASTMLP_DECLARE(scalar)
#ifdef FASTMLP_HAVE_neon
FASTMLP_DECLARE(neon)
#endif
#ifdef FASTMLP_HAVE_avx2
FASTMLP_DECLARE(avx2)
#endif
#ifdef FASTMLP_HAVE_avx512
FASTMLP_DECLARE(avx512)
#endif
#ifdef FASTMLP_HAVE_avx512_bf16
FASTMLP_DECLARE(avx512_bf16)
#endif
#ifdef FASTMLP_HAVE_amx
FASTMLP_DECLARE(amx)
#endif
#undef FASTMLP_DECLARE

namespace {

#if defined(FASTMLP_HAVE_avx2) || defined(FASTMLP_HAVE_avx512)
const X86& x86() {
  static const X86 found;
  return found;
}
#endif

#ifdef FASTMLP_HAVE_amx
// Linux gives a process the registers of tiles on request. It refuses, for example, if
// an alternate signal stack is too small to save them. Other systems are not asked.
bool may_use_tiles() {
#if defined(__linux__)
  static const bool granted = [] {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
#else
  return false;
#endif
}
#endif

struct Entry {
  Isa isa;
  const KernelTables* tables;
  const Bfloat16Kernels* bfloat16;
  bool (*runs_here)();
};

// From the portable instruction set to the best one.
const Entry kEntries[] = {
    {Isa::scalar, &scalar::kKernels, &scalar::kBfloat16Kernels, [] { return true; }},
#ifdef FASTMLP_HAVE_neon
    {Isa::neon, &neon::kKernels, &neon::kBfloat16Kernels,
     [] { return true; }},  // every aarch64 CPU has NEON
#endif
#ifdef FASTMLP_HAVE_avx2
    {Isa::avx2, &avx2::kKernels, &avx2::kBfloat16Kernels, [] { return x86().avx2; }},
#endif
#ifdef FASTMLP_HAVE_avx512
    {Isa::avx512, &avx512::kKernels, &avx512::kBfloat16Kernels,
     [] { return x86().avx512; }},
#endif
#ifdef FASTMLP_HAVE_avx512_bf16
    {Isa::avx512_bf16, &avx512::kKernels, &avx512_bf16::kBfloat16Kernels,
     [] { return x86().avx512_bf16; }},
#endif
#ifdef FASTMLP_HAVE_amx
    {Isa::amx, &avx512::kKernels, &amx::kBfloat16Kernels,
     [] { return x86().amx && may_use_tiles(); }},
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
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::amx:
      return "amx";
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

const Bfloat16Kernels& active_bfloat16_kernels() { return *active_entry().bfloat16; }

}  // namespace fastmlp
