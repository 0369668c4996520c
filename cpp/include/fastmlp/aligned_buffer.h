// Uninitialised memory for vectors, aligned to a cache line, with a single owner.
#pragma once

#include <limits>
#include <new>
#include <utility>

#include "fastmlp/types.h"

namespace fastmlp {

constexpr size_t kAlignment = 64;
// Number of elements of T in a cache line.
template <class T>
constexpr Index kCacheLine = static_cast<Index>(kAlignment / sizeof(T));

template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Throws std::bad_alloc if memory runs out or the number of bytes overflows.
  explicit AlignedBuffer(Index size) : data_(allocate(size)), size_(size) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~AlignedBuffer() {
    if (data_) ::operator delete(data_, std::align_val_t(kAlignment));
  }

  // Makes room for at least `size` elements. The contents are lost if the buffer has to
  // grow.
  void reserve(Index size) {
    if (size > size_) {
      *this =
          AlignedBuffer();  // free the memory first: there may not be enough for both
      *this = AlignedBuffer(size);
    }
  }

  T* data() const { return data_; }
  Index size() const { return size_; }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  static T* allocate(Index size) {
    if (size < 0 || static_cast<size_t>(size) > kLargest) throw std::bad_alloc();
    // AddressSanitizer ends the process if an operator new fails that may throw.
    void* const memory = ::operator new(sizeof(T) * static_cast<size_t>(size),
                                        std::align_val_t(kAlignment), std::nothrow);
    if (!memory) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  static constexpr size_t kLargest =
      static_cast<size_t>(std::numeric_limits<Index>::max()) / sizeof(T);

  T* data_ = nullptr;
  Index size_ = 0;
};

}  // namespace fastmlp
