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

// Both throw std::bad_alloc if the size in bytes cannot be represented: of the fields
// before the reward, and of all records.
Index bytes_before_reward(const ReplayConfig& config) {
  constexpr Index kMost = std::numeric_limits<Index>::max() / 32;
  if (std::max({config.obs_size, config.action_bytes, config.extra_bytes}) > kMost) {
    throw std::bad_alloc();
  }
  return static_cast<Index>(2 * float_bytes(config.obs_size)) + config.action_bytes;
}

Index total_bytes(Index capacity, Index stride) {
  if (capacity > std::numeric_limits<Index>::max() / stride) throw std::bad_alloc();
  return capacity * stride;
}

Index record_bytes(Index used) {
  return (used + kRecordAlignment - 1) / kRecordAlignment * kRecordAlignment;
}

}  // namespace

ReplayBuffer::ReplayBuffer(const ReplayConfig& config)
    : config_(config),
      reward_at_(bytes_before_reward(config)),
      extra_at_(reward_at_ + static_cast<Index>(sizeof(float)) + 1),
      link_at_(extra_at_ + config.extra_bytes),
      stride_(record_bytes(
          link_at_ + (config.n_steps > 1 ? static_cast<Index>(sizeof(int64_t)) : 0))),
      data_(total_bytes(config.capacity, stride_)) {
  if (config.prioritized) priorities_ = std::make_unique<SumTree>(config.capacity);
}

float ReplayBuffer::reward(Index slot) const {
  float r;
  memcpy(&r, record(slot) + reward_at_, sizeof(r));
  return r;
}

Index ReplayBuffer::next(Index slot) const {
  int64_t to;
  memcpy(&to, record(slot) + link_at_, sizeof(to));
  return static_cast<Index>(to);
}

void ReplayBuffer::link(Index slot, int64_t to) {
  memcpy(record(slot) + link_at_, &to, sizeof(to));
}

uint64_t ReplayBuffer::serial(Index slot) const {
  const uint64_t room = static_cast<uint64_t>(config_.capacity);
  const uint64_t last = added_ - 1;
  return last - (last % room + room - static_cast<uint64_t>(slot)) % room;
}

void ReplayBuffer::add(const Transitions& from, Index row, Index env, bool truncated) {
  const size_t obs_bytes = float_bytes(config_.obs_size);
  unsigned char* p = record(next_);
  memcpy(p, from.obs + row * config_.obs_size, obs_bytes);
  p += obs_bytes;
  memcpy(p, from.next_obs + row * config_.obs_size, obs_bytes);
  p += obs_bytes;
  memcpy(p, from.action + row * config_.action_bytes, bytes(config_.action_bytes));
  p += config_.action_bytes;
  memcpy(p, from.reward + row, sizeof(float));
  p += sizeof(float);
  *p = from.terminated[row] ? 1 : 0;
  if (from.extra) {
    memcpy(p + 1, from.extra + row * config_.extra_bytes, bytes(config_.extra_bytes));
  }
  if (linked()) {
    link(next_, -1);
    const size_t at = static_cast<size_t>(env);
    if (at >= open_.size()) open_.resize(at + 1);
    // Unless it has just been overwritten, the predecessor is less than `capacity`
    // transitions older.
    const uint64_t room = static_cast<uint64_t>(config_.capacity);
    if (open_[at] > 0 && added_ - (open_[at] - 1) < room) {
      link(static_cast<Index>((open_[at] - 1) % room), next_);
    }
    open_[at] = from.terminated[row] || truncated ? 0 : added_ + 1;
  }
  if (priorities_) priorities_->set(next_, largest_);
  next_ = next_ + 1 == config_.capacity ? 0 : next_ + 1;
  size_ = std::min(size_ + 1, config_.capacity);
  ++added_;
}

void ReplayBuffer::cut(Index env) {
  if (static_cast<size_t>(env) < open_.size()) open_[static_cast<size_t>(env)] = 0;
}

void ReplayBuffer::draw(int64_t* slots, Index rows) {
  uint64_t drawn[kGroup];
  for (Index first = 0; first < rows; first += kGroup) {
    const Index count = std::min(kGroup, rows - first);
    random_below(drawn, count, static_cast<uint64_t>(size_), config_.seed,
                 Stream::replay, drawn_);
    drawn_ += static_cast<uint64_t>(count);
    for (Index i = 0; i < count; ++i) slots[first + i] = static_cast<int64_t>(drawn[i]);
  }
}

void ReplayBuffer::draw_by_priority(int64_t* slots, float* weights, Index rows,
                                    double beta) {
  constexpr uint64_t kParts = uint64_t{1} << 53;
  const double total = priorities_->total(), least = priorities_->smallest();
  uint64_t drawn[kGroup];
  for (Index first = 0; first < rows; first += kGroup) {
    const Index count = std::min(kGroup, rows - first);
    random_below(drawn, count, kParts, config_.seed, Stream::replay, drawn_);
    drawn_ += static_cast<uint64_t>(count);
    for (Index i = 0; i < count; ++i) {
      const double within = static_cast<double>(drawn[i]) / static_cast<double>(kParts);
      const double part =
          (static_cast<double>(first + i) + within) / static_cast<double>(rows);
      const Index slot = priorities_->find(part * total);
      slots[first + i] = slot;
      const double ratio = least / priorities_->weight(slot);
      weights[first + i] =
          ratio == 1 ? 1.0f : static_cast<float>(positive_power(ratio, beta));
    }
  }
}

void ReplayBuffer::prioritize(const int64_t* slots, const float* p, Index rows) {
  for (Index i = 0; i < rows; ++i) {
    const double weight =
        positive_power(static_cast<double>(p[i]) + config_.eps, config_.alpha);
    priorities_->set(static_cast<Index>(slots[i]), weight);
    largest_ = std::max(largest_, weight);
  }
}

void ReplayBuffer::get(const TransitionsOut& to, Index row, Index slot,
                       Index last) const {
  const size_t obs_bytes = float_bytes(config_.obs_size);
  const unsigned char* const p = record(slot);
  const unsigned char* const end = record(last);
  memcpy(to.obs + row * config_.obs_size, p, obs_bytes);
  memcpy(to.next_obs + row * config_.obs_size, end + obs_bytes, obs_bytes);
  memcpy(to.action + row * config_.action_bytes, p + 2 * obs_bytes,
         bytes(config_.action_bytes));
  memcpy(to.reward + row, p + reward_at_, sizeof(float));
  to.terminated[row] = end[extra_at_ - 1] != 0;
  if (to.extra) {
    memcpy(to.extra + row * config_.extra_bytes, p + extra_at_,
           bytes(config_.extra_bytes));
  }
}

void ReplayBuffer::gather(const TransitionsOut& to, float* discounts,
                          const int64_t* slots, Index rows) const {
  for (Index i = 0; i < rows; ++i) {
    const Index slot = static_cast<Index>(slots[i]);
    Index last = slot;
    double discount = config_.gamma;
    if (linked()) {
      double sum = static_cast<double>(reward(slot));
      for (Index k = 1; k < config_.n_steps && next(last) >= 0; ++k) {
        last = next(last);
        sum += discount * static_cast<double>(reward(last));
        discount *= config_.gamma;
      }
      get(to, i, slot, last);
      to.reward[i] = static_cast<float>(sum);
    } else {
      get(to, i, slot, last);
    }
    if (discounts) discounts[i] = static_cast<float>(discount);
  }
}

ReplayBuffer::Links ReplayBuffer::links() const {
  Links found;
  if (!linked()) return found;
  const uint64_t room = static_cast<uint64_t>(config_.capacity);
  for (Index i = 0; i < size_; ++i) found.next.push_back(next(i));
  for (const uint64_t one_more : open_) {
    const bool there = one_more > 0 && added_ - (one_more - 1) <= room;
    found.open.push_back(there ? static_cast<int64_t>((one_more - 1) % room) : -1);
  }
  return found;
}

void ReplayBuffer::weights(double* out) const {
  for (Index i = 0; i < size_; ++i) out[i] = priorities_->weight(i);
}

void ReplayBuffer::copy_out(const TransitionsOut& to) const {
  for (Index i = 0; i < size_; ++i) get(to, i, i, i);
}

void ReplayBuffer::restore(const Transitions& from, uint64_t added, uint64_t drawn,
                           const Links& links, const double* weights, double largest) {
  const uint64_t room = static_cast<uint64_t>(config_.capacity);
  const Index rows = static_cast<Index>(std::min(added, room));
  size_ = next_ = 0;
  for (Index i = 0; i < rows; ++i) {
    add(from, i, 0, true);
    if (linked()) link(i, links.next[static_cast<size_t>(i)]);
    if (priorities_) priorities_->set(i, weights[i]);
  }
  next_ = static_cast<Index>(added % room);
  added_ = added;
  drawn_ = drawn;
  largest_ = largest;
  open_.clear();
  for (const int64_t slot : links.open) {
    open_.push_back(slot < 0 ? 0 : serial(static_cast<Index>(slot)) + 1);
  }
}

}  // namespace fastmlp
