// A replay buffer: a ring of transitions, sampled by random numbers that depend only on
// the seed and the number of earlier draws.
#pragma once

#include <memory>
#include <vector>

#include "fastmlp/aligned_buffer.h"
#include "fastmlp/sum_tree.h"
#include "fastmlp/types.h"

namespace fastmlp {

// Arrays of transitions: each row of an array belongs to one transition. An action is
// stored as bytes, which are an int64 or several floats; `extra` holds bytes
// that the buffer does not interpret; it is nullptr if there are none.
template <class Float, class Bytes, class Flag>
struct TransitionsOf {
  Float* obs;
  Bytes* action;
  Float* reward;
  Float* next_obs;
  Flag* terminated;
  Bytes* extra;
};
using Transitions = TransitionsOf<const float, const unsigned char, const bool>;
using TransitionsOut = TransitionsOf<float, unsigned char, bool>;

struct ReplayConfig {
  Index capacity = 0, obs_size = 0, action_bytes = 0, extra_bytes = 0;
  uint64_t seed = 0;
  // Number of steps whose rewards a drawn transition sums, and their discount.
  Index n_steps = 1;
  double gamma = 1;
  // Whether draws are in proportion to priorities; `alpha` is their exponent, and
  // `eps` is added to each.
  bool prioritized = false;
  double alpha = 0, eps = 0;
};

// Not thread-safe.
class ReplayBuffer {
 public:
  // Throws std::bad_alloc. Pages of memory are first touched when transitions are
  // stored in them.
  explicit ReplayBuffer(const ReplayConfig& config);

  const ReplayConfig& config() const { return config_; }
  Index size() const { return size_; }
  // Numbers of transitions added and drawn since the buffer was created.
  uint64_t added() const { return added_; }
  uint64_t drawn() const { return drawn_; }

  // Adds the transition in row `row` of `from`, a step of environment `env`. If the
  // buffer is full, this transition replaces the oldest one. It follows the last
  // transition of its environment unless that one ended an episode, by termination or
  // with `truncated`.
  void add(const Transitions& from, Index row, Index env, bool truncated);
  // The next transition of the environment does not follow its last one.
  void cut(Index env);

  // Slots drawn with replacement, uniformly; size() must not be 0.
  void draw(int64_t* slots, Index rows);
  // Slots drawn in proportion to their priorities p^alpha, one from each of `rows`
  // equal parts of the sum of all, and the importance weights
  // (smallest / p^alpha)^beta, of which the largest possible is 1.
  void draw_by_priority(int64_t* slots, float* weights, Index rows, double beta);
  // Sets the priorities of slots; p >= 0.
  void prioritize(const int64_t* slots, const float* p, Index rows);

  // Copies the transitions in some slots. With n_steps > 1, the reward of a row is the
  // discounted sum over at most n_steps steps that follow each other, next_obs and
  // terminated belong to the last of these steps, and `discounts` holds gamma to the
  // power of their number. `discounts` may be nullptr.
  void gather(const TransitionsOut& to, float* discounts, const int64_t* slots,
              Index rows) const;

  // The state beyond the transitions, as arrays of size() elements: for n_steps > 1
  // the slot of each one's successor, or -1, and if prioritized, p^alpha. `open` are
  // the slots of each environment's last transition, if another may follow it, or -1.
  struct Links {
    std::vector<int64_t> next, open;
  };
  Links links() const;
  void weights(double* out) const;
  // copy_out copies all transitions in the order of their slots, without regard to
  // n_steps; restore copies them back into a buffer with the same configuration.
  // `added` and `drawn` are the counts of the original buffer. `links` and `weights`
  // must be valid, as described above; `weights` is nullptr unless prioritized.
  void copy_out(const TransitionsOut& to) const;
  void restore(const Transitions& from, uint64_t added, uint64_t drawn,
               const Links& links, const double* weights, double largest);
  // The largest p^alpha so far, which new transitions get.
  double largest() const { return largest_; }

 private:
  bool linked() const { return config_.n_steps > 1; }
  void get(const TransitionsOut& to, Index row, Index slot, Index last) const;
  unsigned char* record(Index slot) const { return data_.data() + slot * stride_; }
  float reward(Index slot) const;
  Index next(Index slot) const;
  void link(Index slot, int64_t to);
  // The number of transitions added before the one in a slot.
  uint64_t serial(Index slot) const;

  ReplayConfig config_;
  // Positions of fields in a record, and the size of a record.
  Index reward_at_, extra_at_, link_at_, stride_;
  Index size_ = 0, next_ = 0;
  uint64_t added_ = 0, drawn_ = 0;
  // The fields of a transition lie next to each other, so that a draw reads memory in
  // one place: observation, next observation, action, reward, terminated, extra, and
  // for n_steps > 1 the slot of its successor.
  AlignedBuffer<unsigned char> data_;
  // For each environment, one more than the serial number of its last transition, or 0
  // if no transition may follow that one.
  std::vector<uint64_t> open_;
  std::unique_ptr<SumTree> priorities_;
  double largest_ = 1;
};

}  // namespace fastmlp
