#pragma once
#include "halfstep/optim/kernel_span.h"

#include <limits>
#include <variant>
#include <vector>

namespace halfstep::optim::detail {

/// What becomes of a gradient before the update: `clamp(gradient * factor, -limit, limit)`. A
/// negative factor climbs.
struct GradientRule {
  float factor = 1;
  float limit = std::numeric_limits<float>::infinity();
};

// The constants of one step, rounded from float64 once. Buffers are in the order of the optimizer's
// state.

struct AdamRule {
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float rate;    // lr / bias_correction1 * sqrt(bias_correction2)
  float eps;     // eps * sqrt(bias_correction2)
  float decay;   // added to the gradient times the parameter (Adam)
  float shrink;  // the parameter is multiplied by it first (AdamW)
};

struct SgdRule {
  float rate, momentum, one_minus_dampening, decay;
  bool nesterov, is_first_step;
};

struct AdagradRule {
  float rate, eps, decay;
};

using StepRule = std::variant<AdamRule, SgdRule, AdagradRule>;

/// One parameter of a step.
struct StepTask {
  KernelSpan span;
  GradientRule gradient;
  StepRule rule;
};

/// Updates all parameters in one pass over memory, in parallel over the whole. The gradients are
/// only read. What an element becomes depends on nothing but its own values: not on its place in
/// memory, the size of the tensor or the number of threads. Float numbers below the least normal
/// one, given or computed, count as zero unless
/// the gradient rule's factor is one.
void run_step(const std::vector<StepTask>& tasks);

}  // namespace halfstep::optim::detail
