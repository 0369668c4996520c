// Waiting for another thread that is expected to arrive within a microsecond or so.
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

// Call once() in a loop until the other thread has arrived.
class Spin {
 public:
  void once() {
    // If the other thread has not arrived after some 20 to 100 us, another process
    // probably has its CPU, or it is waiting for the CPU of this thread.
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
