#include "halfstep/scaling/takes_grad_scale.h"

namespace halfstep {

// Out of line: the one home of the type information that dynamic_cast compares.
TakesGradScale::~TakesGradScale() = default;

}  // namespace halfstep
