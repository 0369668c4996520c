// Arrays where a read or write beyond them is a crash. Sanitizers do not see masked
// vector loads; the page table does.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "fastmlp/types.h"

// Hands out arrays between two inaccessible pages, with the end of the array right
// before the second one, or its beginning right behind the first.
class Guarded {
 public:
  enum class Against { end, begin };

  explicit Guarded(Against side = Against::end) : side_(side) {}
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    for (const Mapping& m : mappings_) munmap(m.start, m.bytes);
  }

  // Small multiples of 1/4, of both signs and zero.
  template <class T>
  T* array(fastmlp::Index n) {
    const size_t bytes = sizeof(T) * static_cast<size_t>(n);
    const size_t inner = (bytes + page_ - 1) / page_ * page_;
    const size_t total = inner + 2 * page_;
    void* start = mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) std::abort();
    mappings_.push_back({start, total});
    char* const first = static_cast<char*>(start) + page_;
    if (inner && mprotect(first, inner, PROT_READ | PROT_WRITE) != 0) std::abort();
    T* const data =
        reinterpret_cast<T*>(side_ == Against::end ? first + inner - bytes : first);
    for (fastmlp::Index i = 0; i < n; ++i) {
      data[i] = static_cast<T>((i % 7) - 3) / static_cast<T>(4);
    }
    return data;
  }

 private:
  struct Mapping {
    void* start;
    size_t bytes;
  };
  const Against side_;
  const size_t page_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<Mapping> mappings_;
};
