#include <pybind11/critical_section.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arrays.h"
#include "fastmlp/discounted_sums.h"
#include "fastmlp/replay.h"

namespace fastmlp::bindings {
namespace {

// A buffer and the type of its actions: `action_floats` floats, or an int64 if
// action_floats is 0.
struct PyReplayBuffer {
  PyReplayBuffer(const ReplayConfig& config, Index floats, bool discounted)
      : buffer(config), action_floats(floats), has_discounts(discounted) {}
  ReplayBuffer buffer;
  Index action_floats;
  bool has_discounts;  // whether samples come with the discount of each row
  std::vector<float> rounded, rounded_next;  // memory for one observation each
};

template <class T>
const unsigned char* as_bytes(const T* p) {
  return reinterpret_cast<const unsigned char*>(p);
}

void check_finite(const char* name, Index row, const float* x, Index n) {
  for (Index i = 0; i < n; ++i) {
    if (std::isfinite(x[i])) continue;
    const std::string where = row < 0 ? "" : std::to_string(row) + ", ";
    throw py::value_error(std::string(name) + "[" + where + std::to_string(i) +
                          "] must be finite, got " + std::to_string(x[i]));
  }
}

// The n elements of a float array, or those of a double array rounded to float and
// stored in `room`. Returns nullptr if the object is neither or does not have n
// elements.
const float* observation(py::handle object, Index n, std::vector<float>& room) {
  if (const auto v = view<const float>(object)) {
    return v->ndim == 1 && v->shape[0] == n ? v->data : nullptr;
  }
  const auto wide = view<const double>(object);
  if (!wide || wide->ndim != 1 || wide->shape[0] != n) return nullptr;
  room.resize(static_cast<size_t>(n));
  std::transform(wide->data, wide->data + n, room.data(),
                 [](double x) { return static_cast<float>(x); });
  return room.data();
}

// Sets `flag` to the value of a bool of Python or NumPy; returns false for others.
bool read_flag(py::handle object, bool& flag) {
  flag = object.ptr() == Py_True;
  if (flag || object.ptr() == Py_False) return true;
  py::detail::make_caster<bool> caster;
  if (!caster.load(object, false)) return false;
  flag = caster;
  return true;
}

// Adds a transition without extra fields. Returns false if an argument cannot be used
// without conversion.
bool add(PyReplayBuffer& self, py::handle obs, py::handle action, py::handle reward,
         py::handle next_obs, py::handle terminated, py::handle truncated) {
  // Numbers are stored as they are, and __float__ of the user's objects is called.
  const CallbackFpEnvironment environment;
  if (self.buffer.config().extra_bytes > 0) return false;
  const Index n = self.buffer.config().obs_size;
  const float* const before = observation(obs, n, self.rounded);
  const float* const after = observation(next_obs, n, self.rounded_next);
  if (!before || !after) return false;

  int64_t number = 0;
  const unsigned char* taken = as_bytes(&number);
  if (self.action_floats == 0) {
    if (PyBool_Check(action.ptr()) || !PyIndex_Check(action.ptr())) return false;
    number = PyLong_AsLongLong(action.ptr());
    if (number == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      return false;
    }
  } else {
    const auto given = view<const float>(action);
    if (!given || given->ndim != 1 || given->shape[0] != self.action_floats) {
      return false;
    }
    check_finite("action", -1, given->data, self.action_floats);
    taken = as_bytes(given->data);
  }

  // Numbers of any type are accepted. For other objects, and for numbers that are too
  // large, this function returns false and the Python layer raises the error.
  const double earned = PyFloat_AsDouble(reward.ptr());
  if (earned == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    return false;
  }
  const float r = static_cast<float>(earned);
  if (!std::isfinite(r)) return false;
  bool ended = false, stopped = false;
  if (!read_flag(terminated, ended) || !read_flag(truncated, stopped)) return false;
  check_finite("obs", -1, before, n);
  check_finite("next_obs", -1, after, n);
  self.buffer.add({before, taken, &r, after, &ended, nullptr}, 0, 0, stopped);
  return true;
}

std::vector<int64_t> to_vector(const ArrayView<const int64_t>& array) {
  return {array.data, array.data + array.size()};
}

struct Rows {
  Transitions data;
  Index count;
};

// The transitions given by these arrays, one in each row. The Python layer has already
// converted the arrays.
Rows rows_of(const PyReplayBuffer& self, py::handle obs, py::handle actions,
             py::handle rewards, py::handle next_obs, py::handle terminated,
             py::handle extra) {
  const Index n = self.buffer.config().obs_size;
  const Index extra_bytes = self.buffer.config().extra_bytes;
  const auto before = require<const float>(obs, "obs", {-1, n});
  const Index rows = before.shape[0];
  const Index floats = self.action_floats;
  const unsigned char* taken =
      floats == 0
          ? as_bytes(require<const int64_t>(actions, "actions", {rows}).data)
          : as_bytes(require<const float>(actions, "actions", {rows, floats}).data);
  return {
      {before.data, taken, require<const float>(rewards, "rewards", {rows}).data,
       require<const float>(next_obs, "next_obs", {rows, n}).data,
       require<const bool>(terminated, "terminated", {rows}).data,
       extra_bytes == 0
           ? nullptr
           : require<const unsigned char>(extra, "extra", {rows, extra_bytes}).data},
      rows};
}

void check_finite(const PyReplayBuffer& self, const Rows& rows, Index row) {
  const Index n = self.buffer.config().obs_size, floats = self.action_floats;
  check_finite("obs", row, rows.data.obs + row * n, n);
  check_finite("next_obs", row, rows.data.next_obs + row * n, n);
  check_finite("rewards", row, rows.data.reward + row, 1);
  if (floats > 0) {
    const auto* taken = reinterpret_cast<const float*>(rows.data.action);
    check_finite("actions", row, taken + row * floats, floats);
  }
}

void add_batch(PyReplayBuffer& self, const Rows& rows, const bool* truncated,
               const bool* where) {
  for (Index i = 0; i < rows.count; ++i) {
    if (!where || where[i]) check_finite(self, rows, i);
  }
  for (Index i = 0; i < rows.count; ++i) {
    if (!where || where[i]) {
      self.buffer.add(rows.data, i, i, truncated && truncated[i]);
    } else {
      self.buffer.cut(i);
    }
  }
}

// New arrays for the fields of some transitions, and for what comes with a sample.
struct NewBatch {
  NewBatch(const PyReplayBuffer& self, Index rows, bool with_discounts) {
    const Index n = self.buffer.config().obs_size, floats = self.action_floats;
    auto obs = new_array<float>({rows, n}), next_obs = new_array<float>({rows, n});
    auto rewards = new_array<float>(rows);
    auto terminated = new_array<bool>(rows);
    py::array actions;
    if (floats == 0) {
      actions = new_array<int64_t>(rows);
    } else {
      actions = new_array<float>({rows, floats});
    }
    to = {
        obs.mutable_data(),        static_cast<unsigned char*>(actions.mutable_data()),
        rewards.mutable_data(),    next_obs.mutable_data(),
        terminated.mutable_data(), nullptr};
    if (self.buffer.config().extra_bytes > 0) {
      auto more = new_array<unsigned char>({rows, self.buffer.config().extra_bytes});
      to.extra = more.mutable_data();
      extra = std::move(more);
    }
    if (with_discounts) {
      auto each = new_array<float>(rows);
      to_discounts = each.mutable_data();
      discounts = std::move(each);
    }
    fields = py::make_tuple(std::move(obs), std::move(actions), std::move(rewards),
                            std::move(next_obs), std::move(terminated));
  }

  TransitionsOut to{};
  float* to_discounts = nullptr;
  py::tuple fields;  // obs, actions, rewards, next_obs, terminated
  py::object extra = py::none(), discounts = py::none();
};

void check_not_empty(const PyReplayBuffer& self) {
  if (self.buffer.size() == 0) {
    throw py::value_error("the buffer is empty: add transitions first");
  }
}

// The slots in an array, checked to be in use.
ArrayView<const int64_t> slots_of(const PyReplayBuffer& self, py::handle object) {
  const auto slots = require<const int64_t>(object, "indices", {-1});
  for (Index i = 0; i < slots.shape[0]; ++i) {
    if (slots.data[i] >= 0 && slots.data[i] < self.buffer.size()) continue;
    throw py::value_error("indices[" + std::to_string(i) + "] must be from 0 to " +
                          std::to_string(self.buffer.size() - 1) + ", got " +
                          std::to_string(slots.data[i]));
  }
  return slots;
}

template <class T>
py::object targets_of(py::handle q, py::handle by, py::handle rewards,
                      py::handle terminated, py::handle gamma) {
  // One discount, or one for each row.
  double discount = 0;
  std::optional<ArrayView<const float>> discounts;
  if (PyFloat_Check(gamma.ptr())) {
    discount = PyFloat_AS_DOUBLE(gamma.ptr());
  } else {
    discounts = view<const float>(gamma);
    if (!discounts || discounts->ndim != 1) return not_implemented();
  }
  const auto values = view<const T>(q), scores = view<const T>(by);
  const auto reward = view<const float>(rewards);
  const auto ended = view<const bool>(terminated);
  if (!values || !scores || !reward || !ended) return not_implemented();
  const Index rows = values->shape[0], actions = values->shape[1];
  const bool fits = values->ndim == 2 && scores->ndim == 2 && reward->ndim == 1 &&
                    ended->ndim == 1 && scores->shape[0] == rows &&
                    scores->shape[1] == actions && reward->shape[0] == rows &&
                    ended->shape[0] == rows && actions > 0 &&
                    (!discounts || discounts->shape[0] == rows);
  if (!fits) return not_implemented();
  auto out = new_array<T>(rows);
  const CoreFpEnvironment environment;
  action_value_targets(out.mutable_data(), values->data, scores->data, reward->data,
                       ended->data, discount, discounts ? discounts->data : nullptr,
                       rows, actions);
  return std::move(out);
}

}  // namespace

void bind_replay(py::module_& m) {
  using py::arg;
  // The GIL prevents two calls from running at once; in free-threaded Python the
  // critical sections do.
  using Section = py::scoped_critical_section;
  const auto with_section = [](py::handle self) -> PyReplayBuffer& {
    return py::cast<PyReplayBuffer&>(self);
  };

  const auto make = [](Index capacity, Index obs_size, Index action_floats,
                       uint64_t seed, Index extra_bytes, Index n_steps,
                       std::optional<double> gamma,
                       std::optional<std::pair<double, double>> priorities) {
    ReplayConfig config;
    config.capacity = capacity;
    config.obs_size = obs_size;
    config.action_bytes = action_floats == 0
                              ? static_cast<Index>(sizeof(int64_t))
                              : action_floats * static_cast<Index>(sizeof(float));
    config.seed = seed;
    config.extra_bytes = extra_bytes;
    config.n_steps = n_steps;
    config.gamma = gamma.value_or(1);
    config.prioritized = priorities.has_value();
    if (priorities) std::tie(config.alpha, config.eps) = *priorities;
    return std::make_unique<PyReplayBuffer>(config, action_floats, gamma.has_value());
  };
  def_init(new_class<PyReplayBuffer>(m, "ReplayBuffer"), make, arg("capacity"),
           arg("obs_size"), arg("action_floats"), arg("seed"), arg("extra_bytes"),
           arg("n_steps"), arg("gamma"), arg("priorities"))
      .def_property_readonly(
          "size", [](const PyReplayBuffer& self) { return self.buffer.size(); })
      .def_property_readonly(
          "added", [](const PyReplayBuffer& self) { return self.buffer.added(); })
      .def_property_readonly(
          "drawn", [](const PyReplayBuffer& self) { return self.buffer.drawn(); })
      .def(
          "add",
          [with_section](py::handle self, py::handle obs, py::handle action,
                         py::handle reward, py::handle next_obs, py::handle terminated,
                         py::handle truncated) {
            const Section section(self);
            return add(with_section(self), obs, action, reward, next_obs, terminated,
                       truncated);
          },
          arg("obs"), arg("action"), arg("reward"), arg("next_obs"), arg("terminated"),
          arg("truncated"))
      .def(
          "add_batch",
          [with_section](py::handle self, py::handle obs, py::handle actions,
                         py::handle rewards, py::handle next_obs, py::handle terminated,
                         py::handle truncated, py::handle where, py::handle extra) {
            auto& buffer = with_section(self);
            const Rows rows =
                rows_of(buffer, obs, actions, rewards, next_obs, terminated, extra);
            const bool* const stopped =
                require_or_null<const bool>(truncated, "truncated", {rows.count});
            const bool* const taken =
                require_or_null<const bool>(where, "where", {rows.count});
            const Section section(self);
            add_batch(buffer, rows, stopped, taken);
          },
          arg("obs"), arg("actions"), arg("rewards"), arg("next_obs"),
          arg("terminated"), arg("truncated"), arg("where"), arg("extra"))
      .def(
          "sample",
          [with_section](py::handle self, Index rows) {
            auto& own = with_section(self);
            const CoreFpEnvironment environment;
            NewBatch batch(own, rows, own.has_discounts);
            auto indices = new_array<int64_t>(rows);
            const Section section(self);
            check_not_empty(own);
            own.buffer.draw(indices.mutable_data(), rows);
            own.buffer.gather(batch.to, batch.to_discounts, indices.data(), rows);
            return py::make_tuple(std::move(batch.fields), std::move(indices),
                                  std::move(batch.discounts), std::move(batch.extra));
          },
          arg("rows"))
      .def(
          "sample_by_priority",
          [with_section](py::handle self, Index rows, double beta) {
            auto& own = with_section(self);
            const CoreFpEnvironment environment;
            NewBatch batch(own, rows, own.has_discounts);
            auto indices = new_array<int64_t>(rows);
            auto weights = new_array<float>(rows);
            const Section section(self);
            check_not_empty(own);
            own.buffer.draw_by_priority(indices.mutable_data(), weights.mutable_data(),
                                        rows, beta);
            own.buffer.gather(batch.to, batch.to_discounts, indices.data(), rows);
            return py::make_tuple(std::move(batch.fields), std::move(indices),
                                  std::move(batch.discounts), std::move(batch.extra),
                                  std::move(weights));
          },
          arg("rows"), arg("beta"))
      .def(
          "gather",
          [with_section](py::handle self, py::handle indices) {
            const Section section(self);
            const CoreFpEnvironment environment;
            const auto& own = with_section(self);
            const auto slots = slots_of(own, indices);
            NewBatch batch(own, slots.shape[0], own.has_discounts);
            own.buffer.gather(batch.to, batch.to_discounts, slots.data, slots.shape[0]);
            return py::make_tuple(std::move(batch.fields),
                                  py::reinterpret_borrow<py::object>(indices),
                                  std::move(batch.discounts), std::move(batch.extra));
          },
          arg("indices"))
      .def(
          "prioritize",
          [with_section](py::handle self, py::handle indices, py::handle priorities) {
            const Section section(self);
            const CoreFpEnvironment environment;
            auto& buffer = with_section(self);
            const auto slots = slots_of(buffer, indices);
            const Index rows = slots.shape[0];
            const auto p = require<const float>(priorities, "priorities", {rows});
            buffer.buffer.prioritize(slots.data, p.data, rows);
          },
          arg("indices"), arg("priorities"))
      .def("copy_out",
           [with_section](py::handle self) {
             const Section section(self);
             const auto& own = with_section(self);
             NewBatch batch(own, own.buffer.size(), false);
             own.buffer.copy_out(batch.to);
             return py::make_tuple(std::move(batch.fields), std::move(batch.extra));
           })
      .def("links",
           [with_section](py::handle self) {
             const Section section(self);
             const auto links = with_section(self).buffer.links();
             return py::make_tuple(copy_of(links.next), copy_of(links.open));
           })
      .def("weights",
           [with_section](py::handle self) {
             const Section section(self);
             const auto& buffer = with_section(self).buffer;
             auto weights = new_array<double>(buffer.size());
             buffer.weights(weights.mutable_data());
             return py::make_tuple(weights, buffer.largest());
           })
      .def(
          "restore",
          [with_section](py::handle object, py::handle obs, py::handle actions,
                         py::handle rewards, py::handle next_obs, py::handle terminated,
                         py::handle extra, uint64_t added, uint64_t drawn,
                         py::handle next, py::handle open, py::handle weights,
                         double largest) {
            const Section section(object);
            auto& self = with_section(object);
            const CoreFpEnvironment environment;
            const Rows rows =
                rows_of(self, obs, actions, rewards, next_obs, terminated, extra);
            const uint64_t room = static_cast<uint64_t>(self.buffer.config().capacity);
            if (static_cast<uint64_t>(rows.count) != (added < room ? added : room)) {
              throw py::value_error(
                  "the number of rows must be min(added, capacity) = min(" +
                  std::to_string(added) + ", " + std::to_string(room) + "), got " +
                  std::to_string(rows.count));
            }
            for (Index i = 0; i < rows.count; ++i) check_finite(self, rows, i);
            ReplayBuffer::Links links;
            if (self.buffer.config().n_steps > 1) {
              links = {to_vector(require<const int64_t>(next, "next", {rows.count})),
                       to_vector(require<const int64_t>(open, "open", {-1}))};
            }
            const double* const each =
                self.buffer.config().prioritized
                    ? require<const double>(weights, "weights", {rows.count}).data
                    : nullptr;
            self.buffer.restore(rows.data, added, drawn, links, each, largest);
          },
          arg("obs"), arg("actions"), arg("rewards"), arg("next_obs"),
          arg("terminated"), arg("extra"), arg("added"), arg("drawn"), arg("next"),
          arg("open"), arg("weights"), arg("largest"));

  m.def(
      "action_value_targets",
      [](py::handle q, py::handle by, py::handle rewards, py::handle terminated,
         py::handle gamma) {
        if (view<const double>(q)) {
          return targets_of<double>(q, by, rewards, terminated, gamma);
        }
        return targets_of<float>(q, by, rewards, terminated, gamma);
      },
      arg("q"), arg("by"), arg("rewards"), arg("terminated"), arg("gamma"));
  m.def(
      "accumulate_backwards",
      [](py::handle x, py::handle factor) {
        by_dtype(x, "x", [&](auto zero) {
          using T = decltype(zero);
          const auto sums = view<T>(x);
          if (!sums) {
            throw py::type_error("x must be a writeable array, got a read-only one");
          }
          const Index steps = sums->shape[0], width = sums->shape[1];
          const auto factors = sums->ndim == 1
                                   ? require<const T>(factor, "factor", {steps})
                                   : require<const T>(factor, "factor", {steps, width});
          accumulate_backwards(sums->data, factors.data, steps, width);
        });
      },
      arg("x"), arg("factor"));
}

}  // namespace fastmlp::bindings
