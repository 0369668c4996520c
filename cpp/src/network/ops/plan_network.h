// From layers as the user describes them to the ops of a network.
#pragma once

#include <vector>

#include "network/plan.h"

namespace fastmlp::detail {

// Throws std::invalid_argument: no layers, an argument of a layer out of range, or
// sizes that overflow.
NetworkPlan plan_network(Index n_in, const std::vector<LayerSpec>& specs);

}  // namespace fastmlp::detail
