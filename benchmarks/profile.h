#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "benchmarks/variants.h"

namespace halfstep::benchmarks {

/// Time in an op itself, without the ops it calls.
struct OpTime {
  double seconds = 0;
  double calls = 0;  ///< of an op that only some steps call: a fraction
};

/// Runs `steps` steps and sums, by op and per step, what the dispatcher reports on this thread, on
/// which backward runs too on the CPU. The entry "" is what was spent outside of any op: the
/// loop, autograd's engine, the optimizer's own code. Observing costs up to a microsecond an op.
std::map<std::string, OpTime> profile(const Step& step, int64_t steps);

}  // namespace halfstep::benchmarks
