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
    // After some 20 to 100 us the other thread has probably lost its CPU to another
    // process, and may be waiting for this very one.
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
