#include "network/ops/plan_network.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "network/ops/ops.h"

namespace fastmlp::detail {

int plan_layers(NetworkPlan& net, const std::vector<LayerSpec>& specs, int start,
                const std::string& prefix) {
  int last = start;
  for (size_t i = 0; i < specs.size(); ++i) {
    const LayerSpec& spec = specs[i];
    const Index width = net.width_of(last);
    OpPlan op = {spec.kind, width, width};
    op.input = last;
    op.name = prefix + std::to_string(i);
    last = visit(spec.kind,
                 [&](auto kind) { return kind.plan(net, spec, std::move(op), start); });
  }
  return last;
}

NetworkPlan plan_network(Index n_in, const std::vector<LayerSpec>& specs,
                         Operands operands) {
  if (specs.empty()) throw std::invalid_argument("a network needs at least one layer");
  NetworkPlan net(n_in, operands);
  net.finish(plan_layers(net, specs, kInput, ""));
  return net;
}

void set_rates(NetworkPlan& net, const double* rates) {
  for (const OpPlan& op : net.ops) {
    if (!op.is_random) continue;
    visit(op.kind, [&](auto kind) { kind.check_rate(rates[op.stream]); });
  }
  for (OpPlan& op : net.ops) {
    if (op.is_random) op.rate = rates[op.stream];
  }
}

}  // namespace fastmlp::detail
