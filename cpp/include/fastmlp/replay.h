// What an agent has seen, kept to learn from it again: a ring of transitions, and draws
// from it that depend on the seed and their number alone.
#pragma once

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/types.h"

namespace fastmlp {

// One transition, or `rows` of them one after the other in each array. An action is
// some bytes: one int64, or several floats.
template <class Float, class Bytes, class Flag>
struct TransitionsOf {
  Float* obs;
  Bytes* action;
  Float* reward;
  Float* next_obs;
  Flag* terminated;
};
using Transitions = TransitionsOf<const float, const unsigned char, const bool>;
using TransitionsOut = TransitionsOf<float, unsigned char, bool>;

// Not for two threads at once.
class ReplayBuffer {
 public:
  // Throws std::bad_alloc. Memory is not touched before it is used.
  ReplayBuffer(Index capacity, Index obs_size, Index action_bytes, uint64_t seed);

  Index capacity() const { return capacity_; }
  Index obs_size() const { return obs_size_; }
  Index action_bytes() const { return action_bytes_; }
  Index size() const { return size_; }
  // Transitions added, and drawn, since the buffer was made.
  uint64_t added() const { return added_; }
  uint64_t drawn() const { return drawn_; }

  // Keeps the row in place of the oldest if the buffer is full.
  void add(const Transitions& from, Index row);
  // Draws uniformly with replacement; size() must not be 0.
  void sample(const TransitionsOut& to, Index rows);
  // Copies all rows in the order of their places, and back: `added` and `drawn` are
  // then as in the buffer that they are of.
  void copy_out(const TransitionsOut& to) const;
  void restore(const Transitions& from, uint64_t added, uint64_t drawn);

 private:
  void get(const TransitionsOut& to, Index row, Index slot) const;
  unsigned char* record(Index slot) const { return data_.data() + slot * stride_; }

  Index capacity_, obs_size_, action_bytes_, stride_;
  uint64_t seed_;
  Index size_ = 0, next_ = 0;
  uint64_t added_ = 0, drawn_ = 0;
  // A record has all of a transition, so that a draw touches memory in one place:
  // observation, next observation, action, reward, whether it ended.
  AlignedBuffer<unsigned char> data_;
};

}  // namespace fastmlp
