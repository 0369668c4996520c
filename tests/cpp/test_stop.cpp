// A call that is stopped at any moment throws, leaves the model as it was before or as
// it is after the step, and later steps have the bits of a model that was never stopped.
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "check.h"
#include "fastmlp/mlp.h"
#include "fastmlp/random.h"
#include "fastmlp/stop.h"
#include "fastmlp/threads.h"

namespace {

using namespace fastmlp;

constexpr Index kRows = 3000, kWidth = 96;

struct Run {
  Mlp<float> mlp;
  Optimizer adam;
  std::vector<float> x = std::vector<float>(kRows * kWidth);
  std::vector<float> y = std::vector<float>(kRows);
  Loss loss = {LossKind::mse};

  explicit Run(const std::vector<LayerSpec>& layers)
      : mlp(kWidth, layers), adam(config()) {
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(random_bits(1, Stream::initialize, 0, i) % 1000) / 500;
    }
    for (size_t i = 0; i < y.size(); ++i) y[i] = x[i * kWidth];
  }
  static OptimizerConfig config() {
    OptimizerConfig config;
    config.kind = OptimizerKind::adam;
    return config;
  }
  Batch<float> batch() const { return {x.data(), {y.data()}, kRows}; }
  void step() { mlp.train_step(batch(), loss, adam); }
  void epoch() {
    EpochOptions options;
    options.batch_size = 1000;
    options.shuffle = true;
    LastGoodState<float> last_good;
    mlp.fit_epoch(batch(), loss, adam, options, last_good);
  }
  bool equals(const Run& other) const {
    const size_t bytes = sizeof(float) * static_cast<size_t>(mlp.n_params());
    return std::memcmp(mlp.params(), other.mlp.params(), bytes) == 0;
  }
};

// Calls f, which another thread stops after `delay`. Returns whether f was stopped.
bool stopped(std::chrono::microseconds delay, const std::function<void()>& f) {
  std::atomic<bool> flag{delay.count() == 0};
  std::thread timer([&] {
    std::this_thread::sleep_for(delay);
    flag = true;
  });
  bool was_stopped = false;
  try {
    const StoppedBy stop(&flag);
    f();
  } catch (const Interrupted&) {
    was_stopped = true;
  }
  timer.join();
  return was_stopped;
}

void test_steps(const std::vector<LayerSpec>& layers, bool epochs) {
  Run run(layers), twin(layers);
  const auto advance = [&](Run& one) { epochs ? one.epoch() : one.step(); };
  int stops = 0;
  for (int i = 0; i < 40; ++i) {
    const std::chrono::microseconds delay(250 * i);
    const int64_t before = run.adam.step_count();
    stops += stopped(delay, [&] { advance(run); });
    // As many steps as the optimiser has counted have been taken, neither more nor less.
    if (!epochs) {
      CHECK(run.adam.step_count() - before <= 1);
      if (run.adam.step_count() > before) twin.step();
      CHECK(run.equals(twin));
    }
  }
  CHECK(stops > 0);
  if (epochs) return;
  advance(run);
  advance(twin);
  CHECK(run.equals(twin));
}

void test_flag_that_is_set() {
  Run run({{kWidth, Activation::tanh}, {1}}), twin({{kWidth, Activation::tanh}, {1}});
  const std::chrono::microseconds now(0);
  std::vector<float> out(kRows * kWidth),
      grads(static_cast<size_t>(run.mlp.n_params()));
  CHECK(stopped(now, [&] { run.step(); }));
  CHECK(stopped(now, [&] { run.epoch(); }));
  CHECK(stopped(now, [&] { run.mlp.predict(out.data(), run.x.data(), kRows); }));
  CHECK(stopped(now, [&] { run.mlp.evaluate(run.batch(), run.loss); }));
  CHECK(stopped(now, [&] { run.mlp.jacobian(out.data(), run.x.data(), kRows); }));
  CHECK(stopped(now,
                [&] { run.mlp.value_and_grad(grads.data(), run.batch(), run.loss); }));
  CHECK(run.adam.step_count() == 0);
  CHECK(run.equals(twin));
  // A null flag stops nothing, and calls of other threads are not stopped.
  std::atomic<bool> flag{true};
  const StoppedBy stop(&flag);
  {
    const StoppedBy nothing(nullptr);
    run.step();
  }
  std::thread([&] { twin.step(); }).join();
  CHECK(run.equals(twin));
}

}  // namespace

int main() {
  const std::vector<LayerSpec> plain = {{kWidth, Activation::tanh}, {1}};
  const std::vector<LayerSpec> by_batch = {{kWidth, Activation::relu},
                                           LayerSpec::batch_norm(),
                                           LayerSpec::dropout(0.1),
                                           {1}};
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    test_steps(plain, false);
    test_steps(by_batch, false);
    test_steps(plain, true);
    test_flag_that_is_set();
  }
  if (failures == 0) std::printf("all checks passed\n");
  return failures == 0 ? 0 : 1;
}
