// While some threads predict without a pause, another thread can train, and the process
// can fork, even while models are created and destroyed. If training or fork() had to
// wait for ever, the test would not end; the number of predictions is therefore limited.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "check.h"
#include "fastmlp/mlp.h"
#include "fastmlp/threads.h"
#include "threading/fair_mutex.h"

namespace {

using namespace fastmlp;

constexpr Index kRows = 300, kInputs = 8;
constexpr int kReaders = 3;

// Threads that call a function without a pause until they are destroyed, or until they
// have made so many calls together.
class Readers {
 public:
  explicit Readers(std::function<void()> call, int64_t most_calls = INT64_MAX) {
    for (int i = 0; i < kReaders; ++i) {
      threads_.emplace_back([this, call, most_calls] {
        while (!stop_ && calls_ < most_calls) {
          call();
          ++calls_;
        }
      });
    }
    while (calls_ == 0) std::this_thread::yield();
  }
  ~Readers() {
    stop_ = true;
    for (std::thread& t : threads_) t.join();
  }
  int64_t calls() const { return calls_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> calls_{0};
  std::vector<std::thread> threads_;
};

std::function<void()> predicts(const Mlp<float>& mlp, const std::vector<float>& x) {
  return [&mlp, &x] {
    std::vector<float> y(kRows);
    mlp.predict(y.data(), x.data(), kRows);
  };
}

std::function<void()> sleeps(detail::FairSharedMutex& mutex,
                             std::chrono::microseconds time) {
  return [&mutex, time] {
    const std::shared_lock lock(mutex);
    std::this_thread::sleep_for(time);
  };
}

void test_training_gets_its_turn() {
  constexpr int kSteps = 200;
  constexpr int64_t kMostCalls = 100 * kSteps * kReaders;
  Mlp<float> mlp(kInputs, {{64, Activation::tanh}, {1}});
  mlp.initialize(0);
  const std::vector<float> x(kRows * kInputs, 0.5f), y(kRows, 1.0f);
  Optimizer sgd(OptimizerConfig{});
  const Readers readers(predicts(mlp, x), kMostCalls);
  while (readers.calls() < kReaders) std::this_thread::yield();
  for (int step = 0; step < kSteps; ++step) {
    mlp.train_step({x.data(), {y.data()}, kRows}, {LossKind::mse}, sgd);
  }
  CHECK(readers.calls() < kMostCalls);
}

void write(detail::FairSharedMutex& mutex, int steps, std::chrono::microseconds step) {
  for (int i = 0; i < steps; ++i) {
    const std::lock_guard lock(mutex);
    std::this_thread::sleep_for(step);
  }
}

// A writer whose steps are shorter than the readers' calls takes several steps between
// two calls. A busy machine may prevent it now and then.
void test_writer_gets_its_share() {
  constexpr int kSteps = 200;
  detail::FairSharedMutex mutex;
  const Readers readers(sleeps(mutex, std::chrono::microseconds(5000)));
  const int64_t before = readers.calls();
  write(mutex, kSteps, std::chrono::microseconds(200));
  CHECK(readers.calls() - before < kSteps);
}

// Two writers that never pause leave time to readers. (Were they to wait for each other
// at the readers' cost, there would be a call in 15 steps.)
void test_readers_get_their_share() {
  constexpr int kSteps = 60;
  constexpr std::chrono::microseconds kStep(5000);
  detail::FairSharedMutex mutex;
  const Readers readers(sleeps(mutex, kStep));
  const int64_t before = readers.calls();
  std::thread other(write, std::ref(mutex), kSteps, kStep);
  write(mutex, kSteps, kStep);
  other.join();
  CHECK(readers.calls() - before > kSteps / 2);
}

// Whether a child process can use the model.
bool works_in_child(const Mlp<float>& mlp, const std::vector<float>& x) {
  const pid_t child = fork();
  if (child == 0) {
    std::vector<float> y(kRows);
    mlp.predict(y.data(), x.data(), kRows);
    _exit(0);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) &&
         WEXITSTATUS(status) == 0;
}

void test_fork_gets_its_turn() {
  constexpr int kForks = 50;
  constexpr int64_t kMostCalls = 1000000;
  Mlp<float> mlp(kInputs, {{64, Activation::tanh}, {1}});
  mlp.initialize(0);
  const std::vector<float> x(kRows * kInputs, 0.5f);
  const Readers readers(predicts(mlp, x), kMostCalls);
  std::atomic<bool> stop{false};
  std::thread maker([&] {
    while (!stop) {
      const Mlp<float> short_lived(kInputs, {{1}});
      const Optimizer another{OptimizerConfig{}};
    }
  });
  for (int i = 0; i < kForks; ++i) CHECK(works_in_child(mlp, x));
  stop = true;
  maker.join();
  CHECK(readers.calls() < kMostCalls);
}

}  // namespace

int main() {
  set_num_threads(1);
  test_training_gets_its_turn();
  test_writer_gets_its_share();
  test_readers_get_their_share();
  test_fork_gets_its_turn();
  return failures > 0;
}
