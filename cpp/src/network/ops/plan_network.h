// Turns layers, as the user describes them, into the ops of a network.
#pragma once

#include <vector>

#include "network/plan.h"

namespace fastmlp::detail {

// Throws std::invalid_argument if there are no layers, an argument of a layer is out of
// range, or sizes overflow.
NetworkPlan plan_network(Index n_in, const std::vector<LayerSpec>& specs,
                         Operands operands = Operands::full);

// Sets the rates of the random ops in order; see Mlp::set_rates. Throws
// std::invalid_argument, and changes nothing, if one is not valid.
void set_rates(NetworkPlan& net, const double* rates);

}  // namespace fastmlp::detail
