#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "arrays.h"
#include "fastmlp/fp_environment.h"
#include "fastmlp/optimizer.h"
#include "names.h"
#include "optimizer_config.h"
#include "threading/parallel.h"

namespace fastmlp::bindings {
namespace {

// Locks the optimiser for work that is done under the GIL. A thread that waits for the
// lock must not hold the GIL, and a thread that waits for the GIL must not hold the
// lock: either could deadlock with a training thread or a fork.
class LockUnderGil {
 public:
  explicit LockUnderGil(Optimizer& optimizer) : mutex_(optimizer.mutex()) {
    while (!mutex_.try_lock()) {
      const py::gil_scoped_release release;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }
  ~LockUnderGil() { mutex_.unlock(); }
  LockUnderGil(const LockUnderGil&) = delete;
  LockUnderGil& operator=(const LockUnderGil&) = delete;

 private:
  OptimizerMutex& mutex_;
};

void set(Optimizer& optimizer, const std::string& name, py::object value) {
  const auto assign = assignment(optimizer.config().kind, name, value);
  const LockUnderGil lock(optimizer);
  OptimizerConfig asked = optimizer.config();
  assign(asked);
  const auto before = slot_names(optimizer.config());
  const auto after = slot_names(asked);
  for (size_t i = 0; i < kMaxSlots && !optimizer.state().empty(); ++i) {
    if ((before[i] == nullptr) != (after[i] == nullptr)) {
      throw py::value_error(name + ": this value needs a different optimizer state; " +
                            "make a new optimizer, or reset() this one first");
    }
  }
  if (asked.accumulate != optimizer.config().accumulate &&
      optimizer.shared()[kPending] > 0) {
    throw py::value_error(
        "accumulate cannot be changed while gradients wait for the next step: complete "
        "the step, or reset() the optimizer first");
  }
  optimizer.check_groups(asked);
  optimizer.mutable_config() = asked;
}

// Groups as Python gives them: hyperparameters that differ from the optimiser's, and
// the other fields of ParameterGroup.
using GroupTuple = std::tuple<py::dict, std::optional<double>, bool, bool>;

void set_groups(Optimizer& optimizer, const std::vector<GroupTuple>& given,
                const std::vector<std::tuple<Index, Index, int>>& of_elements) {
  std::vector<ParameterGroup> groups;
  for (const auto& [own, lr_scale, decays_all, clips_alone] : given) {
    groups.push_back({{}, lr_scale, decays_all, clips_alone});
    for (const auto& [name, value] : own) {
      groups.back().own.push_back(
          assignment(optimizer.config().kind, py::cast<std::string>(name), value));
    }
  }
  std::vector<GroupRange> ranges;
  for (const auto& [begin, end, group] : of_elements) {
    ranges.push_back({begin, end, group});
  }
  const LockUnderGil lock(optimizer);
  optimizer.set_groups(std::move(groups), std::move(ranges));
}

// One parameter array with its gradient.
template <class T>
struct Pair {
  T* param;
  const T* grad;
  Index size;
  OptimizerSlots<T>* slots;
  bool matrix;  // two dimensions: weights rather than biases
};

struct AnyPair {
  std::optional<Pair<float>> f32;
  std::optional<Pair<double>> f64;
};

template <class T>
std::optional<Pair<T>> pair_of(py::handle param, py::handle grad) {
  const auto p = view<T>(param);
  const auto g = view<const T>(grad);
  if (!p || !g || p->size() == 0 || p->ndim != g->ndim || p->shape[0] != g->shape[0] ||
      p->shape[1] != g->shape[1]) {
    return std::nullopt;
  }
  return Pair<T>{p->data, g->data, p->size(), nullptr, p->ndim > 1};
}

template <class T>
void sum_squares(const Pair<T>& pair) {
  const Index chunks = square_chunks(pair.size);
  run_team(plan_team(2 * static_cast<double>(pair.size), chunks),
           [&](const Team& team) {
             const Range mine = team.share(chunks);
             Optimizer::sum_squares(*pair.slots, pair.grad, mine.begin, mine.end);
           });
}

template <class T>
void update(const Optimizer& optimizer, const Pair<T>& pair, double clip_scale) {
  // Approximate number of operations for one parameter in an Adam update. The members
  // of the team divide the parameters at cache line boundaries, or between chunks.
  constexpr double kFlopsPerParameter = 15;
  const TeamPlan plan = plan_team(kFlopsPerParameter * static_cast<double>(pair.size),
                                  pair.size / kCacheLine<T>);
  run_team(plan, [&](const Team& team) {
    const Range mine = team.share(pair.size, optimizer.grain(kCacheLine<T>));
    optimizer.apply(*pair.slots, pair.param, pair.grad, mine.begin, mine.end,
                    clip_scale, pair.matrix || !optimizer.spares_some());
  });
}

// Whether a parameter array shares memory with another one or with a gradient.
bool overlapping(const std::vector<AnyPair>& pairs) {
  struct Extent {
    uintptr_t begin, end;
    bool param;
  };
  std::vector<Extent> extents;
  const auto add = [&](const auto& pair) {
    const auto at = [](const auto* p) { return reinterpret_cast<uintptr_t>(p); };
    extents.push_back({at(pair.param), at(pair.param + pair.size), true});
    extents.push_back({at(pair.grad), at(pair.grad + pair.size), false});
  };
  for (const auto& [f32, f64] : pairs) {
    if (f32) add(*f32);
    if (f64) add(*f64);
  }
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  uintptr_t end_of_any = 0, end_of_params = 0;
  for (const Extent& e : extents) {
    if (e.begin < (e.param ? end_of_any : end_of_params)) return true;
    end_of_any = std::max(end_of_any, e.end);
    if (e.param) end_of_params = std::max(end_of_params, e.end);
  }
  return false;
}

// The shared numbers of state by their names.
py::dict by_name(const OptimizerConfig& config, const SharedNumbers& numbers) {
  const auto names = shared_names(config);
  py::dict result;
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i]) result[names[i]] = numbers[i];
  }
  return result;
}

SharedNumbers shared_from(const OptimizerConfig& config, const py::dict& numbers) {
  const auto names = shared_names(config);
  SharedNumbers result = {};
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i]) result[i] = py::cast<double>(numbers[names[i]]);
  }
  return result;
}

// Adds the gradients to the accumulated ones, which replace them if the step is then
// complete.
template <class T>
void collect(const Optimizer& optimizer, Pair<T>& pair) {
  optimizer.collect(*pair.slots, pair.grad, Index{0}, pair.size);
  pair.grad = pair.slots->slot[kGradientSlot].data();
}

// Takes a step, or adds the gradients to those that wait for it. Without the GIL, no
// Python object may be touched, not even None.
void take_step(Optimizer& optimizer, std::vector<AnyPair>& pairs) {
  const py::gil_scoped_release release;
  const std::lock_guard lock(optimizer.mutex());
  optimizer.begin_step(static_cast<Index>(pairs.size()));
  for (size_t i = 0; i < pairs.size(); ++i) {
    auto& [f32, f64] = pairs[i];
    const auto which = static_cast<Index>(i);
    if (f32) f32->slots = &optimizer.prepare<float>(which, f32->size);
    if (f64) f64->slots = &optimizer.prepare<double>(which, f64->size);
  }
  for (auto& [f32, f64] : pairs) {
    if (!optimizer.accumulates()) break;
    const CoreFpEnvironment environment;
    if (f32) collect(optimizer, *f32);
    if (f64) collect(optimizer, *f64);
  }
  if (optimizer.completes()) {
    for (const auto& [f32, f64] : pairs) {
      if (!optimizer.clips_by_norm()) break;
      if (f32) sum_squares(*f32);
      if (f64) sum_squares(*f64);
    }
    const double clip_scale = optimizer.clip_scale();
    for (const auto& [f32, f64] : pairs) {
      if (f32) update(optimizer, *f32, clip_scale);
      if (f64) update(optimizer, *f64, clip_scale);
    }
  }
  optimizer.end_step();
}

py::object step(Optimizer& optimizer, const py::list& params, const py::list& grads) {
  if (params.size() != grads.size() || params.empty()) return not_implemented();
  std::vector<AnyPair> pairs;
  pairs.reserve(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    AnyPair pair = {pair_of<float>(params[i], grads[i]),
                    pair_of<double>(params[i], grads[i])};
    if (!pair.f32 && !pair.f64) return not_implemented();
    pairs.push_back(pair);
  }
  if (overlapping(pairs)) return not_implemented();
  // Which elements of a vector are weights is unknown.
  const bool all_vectors = std::none_of(pairs.begin(), pairs.end(), [](const auto& p) {
    return p.f32 ? p.f32->matrix : p.f64->matrix;
  });
  if (all_vectors && optimizer.spares_some()) return not_implemented();
  take_step(optimizer, pairs);
  return py::none();
}

py::dict state(Optimizer& optimizer) {
  // The lock is held only while the state is copied, because making Python objects may
  // run arbitrary code.
  std::vector<Optimizer::AnySlots> copies;
  std::array<const char*, kMaxSlots> names{};
  int64_t step_count = 0;
  SharedNumbers shared = {};
  OptimizerConfig config;
  {
    const LockUnderGil lock(optimizer);
    config = optimizer.config();
    names = slot_names(config);
    step_count = optimizer.step_count();
    shared = optimizer.shared();
    for (const auto& any : optimizer.state()) {
      std::visit(
          [&](const auto& from) {
            std::decay_t<decltype(from)> to;
            to.size = from.size;
            for (size_t i = 0; i < kMaxSlots; ++i) {
              using Buffer = std::decay_t<decltype(to.slot[i])>;
              if (!from.slot[i].data()) continue;
              to.slot[i] = Buffer(from.size);
              std::copy_n(from.slot[i].data(), from.size, to.slot[i].data());
            }
            copies.emplace_back(std::move(to));
          },
          any);
    }
  }
  py::list arrays;
  for (const auto& any : copies) {
    py::dict slots;
    std::visit(
        [&](const auto& s) {
          using T = std::remove_pointer_t<decltype(s.slot[0].data())>;
          for (size_t i = 0; i < kMaxSlots; ++i) {
            if (names[i]) slots[names[i]] = py::array_t<T>(s.size, s.slot[i].data());
          }
        },
        any);
    arrays.append(slots);
  }
  py::dict result;
  result["step"] = step_count;
  result["slots"] = arrays;
  const py::dict numbers = by_name(config, shared);
  if (!numbers.empty()) result["shared"] = numbers;
  return result;
}

template <class T>
bool load_slots(Optimizer::AnySlots& to, const py::dict& from,
                const std::array<const char*, kMaxSlots>& names) {
  OptimizerSlots<T> slots;
  bool first = true;
  for (size_t i = 0; i < kMaxSlots; ++i) {
    if (!names[i]) continue;
    const auto array = view<const T>(from[names[i]]);
    if (!array || array->ndim != 1) return false;
    if (!first && array->size() != slots.size) return false;
    first = false;
    slots.size = array->size();
    slots.slot[i] = AlignedBuffer<T>(slots.size);
    std::copy_n(array->data, slots.size, slots.slot[i].data());
  }
  to = std::move(slots);
  return true;
}

void load_state(Optimizer& optimizer, const py::dict& state) {
  if (!state.contains("step") || !state.contains("slots")) {
    throw py::value_error("state must have the keys 'step' and 'slots', got " +
                          std::string(py::str(py::list(state))));
  }
  const auto step_count = py::cast<int64_t>(state["step"]);
  if (step_count < 0)
    throw py::value_error("state['step'] must not be negative, got " +
                          std::to_string(step_count));
  SharedNumbers shared = {};
  if (state.contains("shared")) {
    shared = shared_from(optimizer.config(), py::cast<py::dict>(state["shared"]));
  }
  const auto names = slot_names(optimizer.config());
  const auto used = std::count_if(names.begin(), names.end(),
                                  [](const char* name) { return name != nullptr; });
  std::vector<Optimizer::AnySlots> loaded;
  size_t which = 0;
  for (const py::handle item : py::cast<py::list>(state["slots"])) {
    const auto slots = py::cast<py::dict>(item);
    const std::string where = "state['slots'][" + std::to_string(which++) + "]";
    bool complete = static_cast<std::ptrdiff_t>(slots.size()) == used;
    for (const char* name : names)
      complete = complete && (!name || slots.contains(name));
    if (!complete) {
      py::list wanted;
      for (const char* name : names) {
        if (name) wanted.append(name);
      }
      throw py::value_error(where + " must have exactly the keys " +
                            std::string(py::str(wanted)) + ", got " +
                            std::string(py::str(py::list(slots))));
    }
    loaded.emplace_back();
    if (used > 0 && !load_slots<float>(loaded.back(), slots, names) &&
        !load_slots<double>(loaded.back(), slots, names)) {
      throw py::value_error(
          where +
          " must hold 1-D C-contiguous float32 or float64 arrays of equal size");
    }
  }
  const LockUnderGil lock(optimizer);
  if (slot_names(optimizer.config()) != names) {
    throw std::runtime_error(
        "the optimizer was changed while its state was being loaded");
  }
  optimizer.state() = std::move(loaded);
  optimizer.set_step_count(step_count);
  optimizer.set_shared(shared);
}

// The dtype and the number of elements of each slot, by name, for every vector of
// parameters.
py::list layout(Optimizer& optimizer) {
  std::vector<std::pair<bool, Index>> vectors;  // whether float32, and the size
  std::array<const char*, kMaxSlots> names{};
  {
    const LockUnderGil lock(optimizer);
    names = slot_names(optimizer.config());
    for (const auto& any : optimizer.state()) {
      vectors.emplace_back(std::holds_alternative<OptimizerSlots<float>>(any),
                           std::visit([](const auto& s) { return s.size; }, any));
    }
  }
  py::list result;
  for (const auto& [single, size] : vectors) {
    py::dict slots;
    for (const char* name : names) {
      if (name) slots[name] = py::make_tuple(single ? "float32" : "float64", size);
    }
    result.append(slots);
  }
  return result;
}

// Calls f, under the lock, with a pointer to element `start` of a slot that holds T.
// Throws if there is no such slot or its size is less than `stop`.
template <class T, class F>
void with_slot(Optimizer& optimizer, size_t which, const std::string& name, Index start,
               Index stop, F f) {
  const LockUnderGil lock(optimizer);
  const auto names = slot_names(optimizer.config());
  const auto place = std::find_if(names.begin(), names.end(),
                                  [&](const char* n) { return n && name == n; });
  auto& state = optimizer.state();
  auto* slots =
      which < state.size() ? std::get_if<OptimizerSlots<T>>(&state[which]) : nullptr;
  if (!slots || place == names.end() || start < 0 || stop < start ||
      stop > slots->size) {
    throw std::runtime_error("the optimizer was changed while its state was in use");
  }
  f(slots->slot[static_cast<size_t>(place - names.begin())].data() + start);
}

// Copies elements of a slot, from `start` on, to an array.
void read_slot(Optimizer& optimizer, size_t which, const std::string& name, Index start,
               py::object out) {
  by_dtype(out, "out", [&](auto t) {
    using T = decltype(t);
    const auto to = require<T>(out, "out", {-1});
    with_slot<T>(optimizer, which, name, start, start + to.size(),
                 [&](const T* from) { std::copy_n(from, to.size(), to.data); });
  });
}

// Copies an array to elements of a slot, from `start` on.
void write_slot(Optimizer& optimizer, size_t which, const std::string& name,
                Index start, py::object values) {
  by_dtype(values, "values", [&](auto t) {
    using T = decltype(t);
    const auto from = require<const T>(values, "values", {-1});
    with_slot<T>(optimizer, which, name, start, start + from.size(),
                 [&](T* to) { std::copy_n(from.data, from.size(), to); });
  });
}

template <class T>
OptimizerSlots<T> uninitialised(Index size,
                                const std::array<const char*, kMaxSlots>& names) {
  OptimizerSlots<T> slots;
  for (size_t i = 0; i < kMaxSlots; ++i) {
    if (!names[i]) continue;
    slots.size = size;
    slots.slot[i] = AlignedBuffer<T>(size);
  }
  return slots;
}

// Replaces the state by slots without values, which write_slot fills. `vectors` holds
// the dtype and the number of elements of each vector of parameters, `shared` the
// shared numbers by name.
void allocate(Optimizer& optimizer, int64_t step_count,
              const std::vector<std::pair<std::string, Index>>& vectors,
              const py::dict& shared) {
  const SharedNumbers numbers = shared_from(optimizer.config(), shared);
  const LockUnderGil lock(optimizer);
  const auto names = slot_names(optimizer.config());
  std::vector<Optimizer::AnySlots> made;
  for (const auto& [dtype, size] : vectors) {
    if (dtype == "float32") {
      made.emplace_back(uninitialised<float>(size, names));
    } else {
      made.emplace_back(uninitialised<double>(size, names));
    }
  }
  optimizer.state() = std::move(made);
  optimizer.set_step_count(step_count);
  optimizer.set_shared(numbers);
}

}  // namespace

void bind_optimizer(py::module_& m) {
  using py::arg;
  const auto make = [](const std::string& kind, const py::kwargs& hyper) {
    OptimizerConfig config;
    config.kind = from_name<OptimizerKind>(kOptimizerNames, kind, "optimizer");
    for (const auto& [name, value] : hyper) {
      assignment(config.kind, py::cast<std::string>(name), value)(config);
    }
    return std::make_unique<Optimizer>(config);
  };
  def_init(new_class<Optimizer>(m, "Optimizer"), make, arg("kind"))
      .def_property_readonly(
          "kind",
          [](const Optimizer& o) { return to_name(kOptimizerNames, o.config().kind); })
      .def_property_readonly("step_count", &Optimizer::step_count)
      .def_property_readonly("gradient_count", &Optimizer::gradient_count)
      .def(
          "get",
          [](const Optimizer& o, const std::string& name) {
            return lookup(o.config(), name);
          },
          arg("name"))
      .def("set", &set, arg("name"), arg("value"))
      .def("set_groups", &set_groups, arg("groups"), arg("ranges"))
      .def("step", &step, arg("params"), arg("grads"))
      .def("state", &state)
      .def("load_state", &load_state, arg("state"))
      .def_property_readonly("slot_names",
                             [](const Optimizer& o) {
                               py::list names;
                               for (const char* name : slot_names(o.config())) {
                                 if (name) names.append(name);
                               }
                               return py::tuple(names);
                             })
      .def_property_readonly("shared",
                             [](Optimizer& o) {
                               SharedNumbers numbers;
                               {
                                 const LockUnderGil lock(o);
                                 numbers = o.shared();
                               }
                               return by_name(o.config(), numbers);
                             })
      .def("layout", &layout)
      .def("read_slot", &read_slot, arg("which"), arg("name"), arg("start"), arg("out"))
      .def("write_slot", &write_slot, arg("which"), arg("name"), arg("start"),
           arg("values"))
      .def("allocate", &allocate, arg("step"), arg("vectors"), arg("shared"))
      .def("reset", [](Optimizer& o) {
        const LockUnderGil lock(o);
        o.reset();
      });
}

}  // namespace fastmlp::bindings
