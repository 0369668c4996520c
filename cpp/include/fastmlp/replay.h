// A replay buffer: a ring of transitions, sampled by random numbers that depend only on
// the seed and the number of earlier draws.
#pragma once

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/types.h"

namespace fastmlp {

// Arrays of transitions: each row of an array belongs to one transition. An action is
// stored as bytes, which are an int64 or several floats.
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

// Not thread-safe.
class ReplayBuffer {
 public:
  // Throws std::bad_alloc. Pages of memory are first touched when transitions are
  // stored in them.
  ReplayBuffer(Index capacity, Index obs_size, Index action_bytes, uint64_t seed);

  Index capacity() const { return capacity_; }
  Index obs_size() const { return obs_size_; }
  Index action_bytes() const { return action_bytes_; }
  Index size() const { return size_; }
  // Numbers of transitions added and drawn since the buffer was created.
  uint64_t added() const { return added_; }
  uint64_t drawn() const { return drawn_; }

  // Adds the transition in row `row` of `from`. If the buffer is full, this transition
  // replaces the oldest one.
  void add(const Transitions& from, Index row);
  // Draws uniformly with replacement; size() must not be 0.
  void sample(const TransitionsOut& to, Index rows);
  // copy_out copies all transitions in the order of their slots; restore copies them
  // back into a buffer with the same sizes. `added` and `drawn` are the counts of the
  // original buffer.
  void copy_out(const TransitionsOut& to) const;
  void restore(const Transitions& from, uint64_t added, uint64_t drawn);

 private:
  void get(const TransitionsOut& to, Index row, Index slot) const;
  unsigned char* record(Index slot) const { return data_.data() + slot * stride_; }

  Index capacity_, obs_size_, action_bytes_, stride_;
  uint64_t seed_;
  Index size_ = 0, next_ = 0;
  uint64_t added_ = 0, drawn_ = 0;
  // The fields of a transition lie next to each other, so that a draw reads memory in
  // one place: observation, next observation, action, reward, terminated.
  AlignedBuffer<unsigned char> data_;
};

}  // namespace fastmlp
