#pragma once
#include "halfstep/optim/kernel_span.h"

#include <vector>

namespace halfstep::optim::detail {

/// True where a gradient of the spans has an inf or NaN. Reads each gradient once, in its own type;
/// in parallel over all spans. Of a span it uses gradient, gradient_element and size.
bool any_nonfinite(const std::vector<KernelSpan>& spans);

/// The sum of the squares of all gradients, in float64, so that it overflows for no finite float32
/// gradients: it is inf or NaN exactly where a gradient is. One pass as above. The same for any
/// number of threads.
double sum_of_squares(const std::vector<KernelSpan>& spans);

}  // namespace halfstep::optim::detail
