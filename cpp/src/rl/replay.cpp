#include "fastmlp/replay.h"

#include <string.h>

#include <algorithm>
#include <limits>
#include <new>

#include "fastmlp/random.h"

namespace fastmlp {
namespace {

constexpr Index kRecordAlignment = 8;
// Number of slots drawn at a time, into memory on the stack.
constexpr Index kGroup = 64;

size_t bytes(Index n) { return static_cast<size_t>(n); }
size_t float_bytes(Index n) { return sizeof(float) * static_cast<size_t>(n); }

// record_bytes is the size of one record in bytes, total_bytes that of all records.
// Both throw std::bad_alloc if the size cannot be represented.
Index record_bytes(Index obs_size, Index action_bytes) {
  constexpr Index kMost = std::numeric_limits<Index>::max() / 32;
  if (obs_size > kMost || action_bytes > kMost) throw std::bad_alloc();
  const Index size = static_cast<Index>(2 * float_bytes(obs_size)) + action_bytes +
                     static_cast<Index>(sizeof(float)) + 1;
  return (size + kRecordAlignment - 1) / kRecordAlignment * kRecordAlignment;
}

Index total_bytes(Index capacity, Index stride) {
  if (capacity > std::numeric_limits<Index>::max() / stride) throw std::bad_alloc();
  return capacity * stride;
}

}  // namespace

ReplayBuffer::ReplayBuffer(Index capacity, Index obs_size, Index action_bytes,
                           uint64_t seed)
    : capacity_(capacity),
      obs_size_(obs_size),
      action_bytes_(action_bytes),
      stride_(record_bytes(obs_size, action_bytes)),
      seed_(seed),
      data_(total_bytes(capacity, stride_)) {}

void ReplayBuffer::add(const Transitions& from, Index row) {
  const size_t obs_bytes = float_bytes(obs_size_);
  unsigned char* p = record(next_);
  memcpy(p, from.obs + row * obs_size_, obs_bytes);
  p += obs_bytes;
  memcpy(p, from.next_obs + row * obs_size_, obs_bytes);
  p += obs_bytes;
  memcpy(p, from.action + row * action_bytes_, bytes(action_bytes_));
  p += action_bytes_;
  memcpy(p, from.reward + row, sizeof(float));
  p += sizeof(float);
  *p = from.terminated[row] ? 1 : 0;
  next_ = next_ + 1 == capacity_ ? 0 : next_ + 1;
  size_ = std::min(size_ + 1, capacity_);
  ++added_;
}

void ReplayBuffer::get(const TransitionsOut& to, Index row, Index slot) const {
  const size_t obs_bytes = float_bytes(obs_size_);
  const unsigned char* p = record(slot);
  memcpy(to.obs + row * obs_size_, p, obs_bytes);
  p += obs_bytes;
  memcpy(to.next_obs + row * obs_size_, p, obs_bytes);
  p += obs_bytes;
  memcpy(to.action + row * action_bytes_, p, bytes(action_bytes_));
  p += action_bytes_;
  memcpy(to.reward + row, p, sizeof(float));
  p += sizeof(float);
  to.terminated[row] = *p != 0;
}

void ReplayBuffer::sample(const TransitionsOut& to, Index rows) {
  uint64_t slots[kGroup];
  for (Index first = 0; first < rows; first += kGroup) {
    const Index count = std::min(kGroup, rows - first);
    random_below(slots, count, static_cast<uint64_t>(size_), seed_, Stream::replay,
                 drawn_);
    drawn_ += static_cast<uint64_t>(count);
    for (Index i = 0; i < count; ++i) get(to, first + i, static_cast<Index>(slots[i]));
  }
}

void ReplayBuffer::copy_out(const TransitionsOut& to) const {
  for (Index i = 0; i < size_; ++i) get(to, i, i);
}

void ReplayBuffer::restore(const Transitions& from, uint64_t added, uint64_t drawn) {
  const uint64_t room = static_cast<uint64_t>(capacity_);
  const Index rows = static_cast<Index>(std::min(added, room));
  size_ = next_ = 0;
  for (Index i = 0; i < rows; ++i) add(from, i);
  next_ = static_cast<Index>(added % room);
  added_ = added;
  drawn_ = drawn;
}

}  // namespace fastmlp
