// All ops, and the function that selects an op by its kind.
#pragma once

#include "network/ops/activation.h"
#include "network/ops/add.h"
#include "network/ops/columns.h"
#include "network/ops/concat.h"
#include "network/ops/dense.h"
#include "network/ops/embedding.h"
#include "network/ops/glu.h"
#include "network/ops/noise.h"
#include "network/ops/norms.h"
#include "network/ops/periodic.h"
#include "network/ops/piecewise_linear.h"
#include "network/ops/prelu.h"
#include "network/ops/scale.h"
#include "network/ops/standardise.h"

namespace fastmlp::detail {

// Calls f with an object of the struct for this kind, of which only the type matters:
//   visit(op.kind, [&](auto kind) { kind.forward(args, op); });
template <class F>
[[gnu::always_inline]] inline decltype(auto) visit(LayerKind kind, F&& f) {
  switch (kind) {
#define FASTMLP_CASE(name, Op, text) \
  case LayerKind::name:              \
    return f(Op{});
    FASTMLP_LAYER_KINDS(FASTMLP_CASE)
#undef FASTMLP_CASE
  }
  __builtin_unreachable();
}

}  // namespace fastmlp::detail
