#include <pybind11/critical_section.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "arrays.h"
#include "fastmlp/discounted_sums.h"
#include "fastmlp/replay.h"

namespace fastmlp::bindings {
namespace {

// A buffer and the type of its actions: `action_floats` floats, or an int64 if
// action_floats is 0.
struct PyReplayBuffer {
  PyReplayBuffer(Index capacity, Index n_obs, Index floats, uint64_t seed)
      : buffer(capacity, n_obs,
               floats == 0 ? static_cast<Index>(sizeof(int64_t))
                           : floats * static_cast<Index>(sizeof(float)),
               seed),
        action_floats(floats) {}
  ReplayBuffer buffer;
  Index action_floats;
  std::vector<float> rounded, rounded_next;  // memory for one observation each
};

template <class T>
const unsigned char* as_bytes(const T* p) {
  return reinterpret_cast<const unsigned char*>(p);
}
template <class T>
unsigned char* as_bytes(T* p) {
  return reinterpret_cast<unsigned char*>(p);
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

// Adds a transition. Returns false if an argument cannot be used without conversion.
bool add(PyReplayBuffer& self, py::handle obs, py::handle action, py::handle reward,
         py::handle next_obs, py::handle terminated) {
  const Index n = self.buffer.obs_size();
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
  bool ended = terminated.ptr() == Py_True;
  if (!ended && terminated.ptr() != Py_False) {
    const auto scalar = py::reinterpret_borrow<py::object>(terminated);
    py::detail::make_caster<bool> caster;
    if (!caster.load(scalar, false)) return false;
    ended = caster;
  }
  check_finite("obs", -1, before, n);
  check_finite("next_obs", -1, after, n);
  self.buffer.add({before, taken, &r, after, &ended}, 0);
  return true;
}

struct Rows {
  Transitions data;
  Index count;
};

// The transitions given by these arrays, one in each row. The Python layer has already
// converted the arrays.
Rows rows_of(const PyReplayBuffer& self, py::handle obs, py::handle actions,
             py::handle rewards, py::handle next_obs, py::handle terminated) {
  const Index n = self.buffer.obs_size();
  const auto before = require<const float>(obs, "obs", {-1, n});
  const Index rows = before.shape[0];
  const Index floats = self.action_floats;
  const unsigned char* taken =
      floats == 0
          ? as_bytes(require<const int64_t>(actions, "actions", {rows}).data)
          : as_bytes(require<const float>(actions, "actions", {rows, floats}).data);
  return {{before.data, taken, require<const float>(rewards, "rewards", {rows}).data,
           require<const float>(next_obs, "next_obs", {rows, n}).data,
           require<const bool>(terminated, "terminated", {rows}).data},
          rows};
}

void check_finite(const PyReplayBuffer& self, const Rows& rows, Index row) {
  const Index n = self.buffer.obs_size(), floats = self.action_floats;
  check_finite("obs", row, rows.data.obs + row * n, n);
  check_finite("next_obs", row, rows.data.next_obs + row * n, n);
  check_finite("rewards", row, rows.data.reward + row, 1);
  if (floats > 0) {
    const auto* taken = reinterpret_cast<const float*>(rows.data.action);
    check_finite("actions", row, taken + row * floats, floats);
  }
}

void add_batch(PyReplayBuffer& self, const Rows& rows, const bool* where) {
  for (Index i = 0; i < rows.count; ++i) {
    if (!where || where[i]) check_finite(self, rows, i);
  }
  for (Index i = 0; i < rows.count; ++i) {
    if (!where || where[i]) self.buffer.add(rows.data, i);
  }
}

// New arrays for `rows` transitions: (obs, actions, rewards, next_obs, terminated).
py::tuple new_batch(const PyReplayBuffer& self, Index rows, TransitionsOut& to) {
  const Index n = self.buffer.obs_size(), floats = self.action_floats;
  auto obs = new_array<float>({rows, n}), next_obs = new_array<float>({rows, n});
  auto rewards = new_array<float>(rows);
  auto terminated = new_array<bool>(rows);
  py::array actions;
  if (floats == 0) {
    actions = new_array<int64_t>(rows);
  } else {
    actions = new_array<float>({rows, floats});
  }
  to = {obs.mutable_data(), static_cast<unsigned char*>(actions.mutable_data()),
        rewards.mutable_data(), next_obs.mutable_data(), terminated.mutable_data()};
  return py::make_tuple(std::move(obs), std::move(actions), std::move(rewards),
                        std::move(next_obs), std::move(terminated));
}

template <class T>
py::object targets_of(py::handle q, py::handle by, py::handle rewards,
                      py::handle terminated, double gamma) {
  const auto values = view<const T>(q), scores = view<const T>(by);
  const auto reward = view<const float>(rewards);
  const auto ended = view<const bool>(terminated);
  if (!values || !scores || !reward || !ended) return not_implemented();
  const Index rows = values->shape[0], actions = values->shape[1];
  const bool fits = values->ndim == 2 && scores->ndim == 2 && reward->ndim == 1 &&
                    ended->ndim == 1 && scores->shape[0] == rows &&
                    scores->shape[1] == actions && reward->shape[0] == rows &&
                    ended->shape[0] == rows && actions > 0;
  if (!fits) return not_implemented();
  auto out = new_array<T>(rows);
  const CoreFpEnvironment environment;
  action_value_targets(out.mutable_data(), values->data, scores->data, reward->data,
                       ended->data, gamma, rows, actions);
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

  new_class<PyReplayBuffer>(m, "ReplayBuffer")
      .def(py::init<Index, Index, Index, uint64_t>(), arg("capacity"), arg("obs_size"),
           arg("action_floats"), arg("seed"))
      .def_property_readonly(
          "size", [](const PyReplayBuffer& self) { return self.buffer.size(); })
      .def_property_readonly(
          "added", [](const PyReplayBuffer& self) { return self.buffer.added(); })
      .def_property_readonly(
          "drawn", [](const PyReplayBuffer& self) { return self.buffer.drawn(); })
      .def(
          "add",
          [with_section](py::handle self, py::handle obs, py::handle action,
                         py::handle reward, py::handle next_obs,
                         py::handle terminated) {
            const Section section(self);
            return add(with_section(self), obs, action, reward, next_obs, terminated);
          },
          arg("obs"), arg("action"), arg("reward"), arg("next_obs"), arg("terminated"))
      .def(
          "add_batch",
          [with_section](py::handle self, py::handle obs, py::handle actions,
                         py::handle rewards, py::handle next_obs, py::handle terminated,
                         py::handle where) {
            auto& buffer = with_section(self);
            const Rows rows =
                rows_of(buffer, obs, actions, rewards, next_obs, terminated);
            const bool* const taken =
                require_or_null<const bool>(where, "where", {rows.count});
            const Section section(self);
            add_batch(buffer, rows, taken);
          },
          arg("obs"), arg("actions"), arg("rewards"), arg("next_obs"),
          arg("terminated"), arg("where") = py::none())
      .def(
          "sample",
          [with_section](py::handle self, Index rows) {
            auto& buffer = with_section(self);
            TransitionsOut to{};
            py::tuple batch = new_batch(buffer, rows, to);
            const Section section(self);
            if (buffer.buffer.size() == 0) {
              throw py::value_error("the buffer is empty: add transitions first");
            }
            buffer.buffer.sample(to, rows);
            return batch;
          },
          arg("rows"))
      .def("copy_out",
           [with_section](py::handle self) {
             const Section section(self);
             auto& buffer = with_section(self);
             TransitionsOut to{};
             py::tuple rows = new_batch(buffer, buffer.buffer.size(), to);
             buffer.buffer.copy_out(to);
             return rows;
           })
      .def(
          "restore",
          [with_section](py::handle object, py::handle obs, py::handle actions,
                         py::handle rewards, py::handle next_obs, py::handle terminated,
                         uint64_t added, uint64_t drawn) {
            const Section section(object);
            auto& self = with_section(object);
            const Rows rows =
                rows_of(self, obs, actions, rewards, next_obs, terminated);
            const uint64_t room = static_cast<uint64_t>(self.buffer.capacity());
            if (static_cast<uint64_t>(rows.count) != (added < room ? added : room)) {
              throw py::value_error(
                  "the number of rows must be min(added, capacity) = min(" +
                  std::to_string(added) + ", " + std::to_string(room) + "), got " +
                  std::to_string(rows.count));
            }
            for (Index i = 0; i < rows.count; ++i) check_finite(self, rows, i);
            self.buffer.restore(rows.data, added, drawn);
          },
          arg("obs"), arg("actions"), arg("rewards"), arg("next_obs"),
          arg("terminated"), arg("added"), arg("drawn"));

  m.def(
      "action_value_targets",
      [](py::handle q, py::handle by, py::handle rewards, py::handle terminated,
         double gamma) {
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
          if (!sums) throw py::type_error("x must be a writeable array");
          const auto factors = view<const T>(factor);
          if (!factors || factors->shape[0] != sums->shape[0] ||
              factors->shape[1] != sums->shape[1]) {
            throw py::type_error(
                "factor must be an array with the dtype and shape of x");
          }
          accumulate_backwards(sums->data, factors->data, sums->shape[0],
                               sums->shape[1]);
        });
      },
      arg("x"), arg("factor"));
}

}  // namespace fastmlp::bindings
