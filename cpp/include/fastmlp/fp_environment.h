// Results are bitwise reproducible only in a fixed floating-point environment. Other
// libraries in the process may change the one that the core finds.
#pragma once

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <cfenv>
#endif

#include <cstdint>

namespace fastmlp {

// What happens to subnormal numbers, whose magnitude is below the smallest normal one.
enum class Subnormals {
  kKept,     // as IEEE 754 defines it
  kFlushed,  // each operand and each result counts as 0 of the same sign
};

// RAII: sets rounding to nearest without traps for the current thread; the destructor
// restores the previous environment.
//
// x86 and AArch64 can flush subnormal numbers; elsewhere they are always kept. x86
// decides after rounding whether a result is subnormal, AArch64 before. They differ for
// a result that is rounded up to the smallest normal number: AArch64 makes it 0.
template <Subnormals kSubnormals>
class FpEnvironment {
 public:
  FpEnvironment() {
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
    saved_ = _mm_getcsr();
    if (saved_ != kState) _mm_setcsr(kState);
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(kState));
#else
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
#endif
  }
  ~FpEnvironment() {
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
    _mm_setcsr(saved_);
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(saved_));
#else
    std::fesetenv(&saved_);
#endif
  }
  FpEnvironment(const FpEnvironment&) = delete;
  FpEnvironment& operator=(const FpEnvironment&) = delete;

 private:
  static constexpr bool kFlush = kSubnormals == Subnormals::kFlushed;
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
  // All exceptions are masked; 0x8000 flushes results (FTZ), 0x0040 operands (DAZ).
  static constexpr unsigned kState = kFlush ? 0x9FC0 : 0x1F80;
  unsigned saved_;
#elif defined(__aarch64__)
  static constexpr uint64_t kState = uint64_t{kFlush} << 24;  // FZ
  uint64_t saved_;
#else
  std::fenv_t saved_;
#endif
};

// The environment of all arithmetic in the core. Subnormal numbers are flushed because
// an operation with one can take a hundred times as long. They arise in ordinary
// training: in the moments of a parameter whose gradient is 0, in parameters under
// weight decay, in the tails of activations.
using CoreFpEnvironment = FpEnvironment<Subnormals::kFlushed>;

// The environment in which the core calls functions of the user.
using CallbackFpEnvironment = FpEnvironment<Subnormals::kKept>;

}  // namespace fastmlp
