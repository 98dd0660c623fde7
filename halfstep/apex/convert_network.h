#pragma once
#include <c10/core/ScalarType.h>
#include <torch/nn/module.h>

namespace halfstep::apex::detail {

/// Casts the floating-point parameters and buffers of a module tree to `dtype` in place; with
/// `keep_batchnorm`, not those of batch norms, whose statistics 16 bits can't hold. Difference
/// from Apex: that keeps batch norms without weights for themselves in 16 bits.
void convert_network(torch::nn::Module& model, c10::ScalarType dtype, bool keep_batchnorm);

/// Throws UsageError where a parameter or buffer of the model has 16 bits; `where` opens the
/// message.
void check_is_float32(const torch::nn::Module& model, const char* where);

}  // namespace halfstep::apex::detail
