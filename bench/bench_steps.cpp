// Times of whole training steps and of inference without Python, also suited to a
// profiler (see README.md). Medians of interleaved rounds.
//
//   bench_steps [--rounds N] [--threads N] [--isa NAME]... [WORKLOAD]...
//
// Workloads: those of rivals/tasks.py; all by default.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "fastmlp/isa.h"
#include "fastmlp/mlp.h"
#include "harness.h"

namespace fastmlp {
namespace bench {
namespace {

struct Workload {
  const char* name;
  std::vector<Index> widths;
  Activation activation;
  LossKind loss;
  OptimizerKind optimizer;
  Index rows;
  bool infers;  // with 1 and 4096 rows
};

const Workload kWorkloads[] = {
    {"rl-tiny",
     {4, 64, 64, 2},
     Activation::tanh,
     LossKind::mse,
     OptimizerKind::adam,
     64,
     true},
    {"sk-default",
     {20, 100, 1},
     Activation::relu,
     LossKind::mse,
     OptimizerKind::adam,
     200,
     false},
    {"sac",
     {17, 256, 256, 6},
     Activation::relu,
     LossKind::mse,
     OptimizerKind::adam,
     256,
     true},
    {"mnist1d-fb",
     {40, 100, 100, 10},
     Activation::relu,
     LossKind::cross_entropy,
     OptimizerKind::sgd,
     4000,
     false},
    {"mnist",
     {784, 512, 512, 10},
     Activation::tanh,
     LossKind::cross_entropy,
     OptimizerKind::adam,
     128,
     true},
    {"wide",
     {1024, 1024, 1024, 1024, 10},
     Activation::relu,
     LossKind::cross_entropy,
     OptimizerKind::adam,
     512,
     false},
};

// A network with data for it. Values in [-1, 1), from a linear congruential generator.
class Bench {
 public:
  explicit Bench(const Workload& w)
      : rows_(w.infers ? std::max(w.rows, kManyRows) : w.rows),
        mlp_(w.widths[0], layers(w)),
        optimizer_(config(w)),
        loss_{w.loss},
        x_(numbers(rows_ * mlp_.n_in())),
        y_(numbers(rows_ * mlp_.n_out())) {
    mlp_.initialize(0);
    for (Index r = 0; r < rows_; ++r) labels_.push_back(r * 7 % mlp_.n_out());
  }

  void train(Index rows) {
    Batch<float> batch = {x_.data(), {}, rows};
    if (loss_.kind == LossKind::cross_entropy) {
      batch.targets.labels = labels_.data();
    } else {
      batch.targets.values = y_.data();
    }
    mlp_.train_step(batch, loss_, optimizer_);
  }
  void infer(Index rows) { mlp_.predict(y_.data(), x_.data(), rows); }

  static constexpr Index kManyRows = 4096;

 private:
  static std::vector<LayerSpec> layers(const Workload& w) {
    std::vector<LayerSpec> specs;
    for (size_t i = 1; i < w.widths.size(); ++i) {
      const bool last = i + 1 == w.widths.size();
      specs.push_back({w.widths[i], last ? Activation::identity : w.activation});
    }
    return specs;
  }
  static OptimizerConfig config(const Workload& w) {
    OptimizerConfig c;
    c.kind = w.optimizer;
    c.lr = 1e-6;  // stays near its start for any number of steps
    return c;
  }
  static std::vector<float> numbers(Index n) {
    std::vector<float> v(static_cast<size_t>(n));
    uint32_t state = 1;
    for (float& x : v) {
      state = state * 1664525u + 1013904223u;
      x = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
    }
    return v;
  }

  Index rows_;
  Mlp<float> mlp_;
  Optimizer optimizer_;
  Loss loss_;
  std::vector<float> x_, y_;
  std::vector<int64_t> labels_;
};

void run(const Options& options, const std::string& isa) {
  std::vector<Case> cases = {peak_case<float>()};
  for (const Workload& w : kWorkloads) {
    const auto& names = options.names;
    if (!names.empty() && std::find(names.begin(), names.end(), w.name) == names.end())
      continue;
    const auto bench = std::make_shared<Bench>(w);
    double products = 0;
    for (size_t i = 1; i < w.widths.size(); ++i) {
      products += 2.0 * static_cast<double>(w.widths[i - 1] * w.widths[i]);
    }
    const double first = 2.0 * static_cast<double>(w.widths[0] * w.widths[1]);
    const Index rows = w.rows;
    cases.push_back({w.name, [=] { bench->train(rows); },
                     static_cast<double>(rows) * (3 * products - first)});
    for (const Index n : {Index{1}, Bench::kManyRows}) {
      if (!w.infers) continue;
      cases.push_back({std::string(w.name) + " x" + std::to_string(n),
                       [=] { bench->infer(n); }, static_cast<double>(n) * products});
    }
  }
  measure(cases, options.rounds);
  const double peak = cases[0].amount / median(cases[0].times) * options.threads;
  for (size_t i = 1; i < cases.size(); ++i) {
    const double t = median(cases[i].times);
    const double rate = cases[i].amount / t;
    std::printf("%-8s %-14s %10.2f us %8.1f GFLOP/s %6.1f %% of peak\n", isa.c_str(),
                cases[i].name.c_str(), 1e6 * t, rate / 1e9, 100 * rate / peak);
  }
}

}  // namespace
}  // namespace bench
}  // namespace fastmlp

int main(int argc, char** argv) {
  using namespace fastmlp;
  const bench::Options options = bench::parse(argc, argv);
  for (const std::string& isa : options.isas) {
    set_active_isa(isa);
    bench::run(options, isa);
  }
  return 0;
}
