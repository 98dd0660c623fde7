#include "halfstep/train/metrics/metric.h"

#include "halfstep/core/error.h"

namespace halfstep::train {

void Metrics::add(std::string name, double value) {
  HALFSTEP_CHECK_USAGE(!find(name), "Metrics::add",
                       "each result must have a name of its own, but got '", name,
                       "' twice; give one of the metrics another prefix");
  items_.emplace_back(std::move(name), value);
}

}  // namespace halfstep::train
