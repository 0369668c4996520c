// Memory planning: parts of one buffer, and slots that several values use in turn.
#pragma once

#include <algorithm>
#include <vector>

#include "fastmlp/aligned_buffer.h"

namespace fastmlp::detail {

// Hands out consecutive parts of one buffer, each starting on a cache line. With a null
// base it only counts elements. So make the same calls twice: first with a null base,
// then with a buffer of used() elements.
template <class T>
class Arena {
 public:
  explicit Arena(T* base) : base_(base) {}
  T* take(Index size) {
    T* const at = base_ ? base_ + used_ : nullptr;
    used_ += (size + kCacheLine<T> - 1) / kCacheLine<T> * kCacheLine<T>;
    return at;
  }
  Index used() const { return used_; }

 private:
  T* base_;
  Index used_ = 0;
};

// Assigns slots to values with limited lifetimes: each value gets the first free slot,
// or a new slot if none is free. A slot is as large as its largest value.
class SlotAllocator {
 public:
  int take(Index size) {
    size_t slot = 0;
    while (slot < taken_.size() && taken_[slot]) ++slot;
    if (slot == taken_.size()) {
      taken_.push_back(0);
      sizes_.push_back(0);
    }
    taken_[slot] = 1;
    sizes_[slot] = std::max(sizes_[slot], size);
    return static_cast<int>(slot);
  }
  void release(int slot) { taken_[static_cast<size_t>(slot)] = 0; }
  const std::vector<Index>& sizes() const { return sizes_; }

 private:
  std::vector<char> taken_;
  std::vector<Index> sizes_;
};

}  // namespace fastmlp::detail
