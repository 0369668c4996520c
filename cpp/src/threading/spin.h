// Waiting for another thread that is expected at once: spins, then gives way.
#pragma once

#include <thread>

namespace fastmlp::detail {

inline void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Spin {
 public:
  void once() {
    constexpr int kSpins = 2000;
    if (++count_ < kSpins) {
      pause_cpu();
    } else {
      std::this_thread::yield();
    }
  }

 private:
  int count_ = 0;
};

}  // namespace fastmlp::detail
