// Results are bitwise reproducible only in a fixed floating-point environment: rounding
// to nearest, subnormal numbers kept, no traps. Other libraries in the process may
// change this environment.
#pragma once

#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
#include <xmmintrin.h>
#elif !defined(__aarch64__)
#include <cfenv>
#endif

#include <cstdint>

namespace fastmlp {

// RAII: sets this environment for the current thread; the destructor restores the
// previous one.
class DefaultFpEnvironment {
 public:
  DefaultFpEnvironment() {
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
    saved_ = _mm_getcsr();
    if (saved_ != kDefault) _mm_setcsr(kDefault);
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t{0}));
#else
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
#endif
  }
  ~DefaultFpEnvironment() {
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
    _mm_setcsr(saved_);
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(saved_));
#else
    std::fesetenv(&saved_);
#endif
  }
  DefaultFpEnvironment(const DefaultFpEnvironment&) = delete;
  DefaultFpEnvironment& operator=(const DefaultFpEnvironment&) = delete;

 private:
#if defined(__x86_64__) || defined(__i386__) || defined(_M_X64)
  static constexpr unsigned kDefault = 0x1F80;  // all exceptions masked, no FTZ or DAZ
  unsigned saved_;
#elif defined(__aarch64__)
  uint64_t saved_;
#else
  std::fenv_t saved_;
#endif
};

}  // namespace fastmlp
