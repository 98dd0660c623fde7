#pragma once
#include <cstdint>

#include <c10/core/ScalarType.h>
#include <torch/nn/module.h>

namespace halfstep::optim {

/// Casts, in place, the weights and biases that autocast would cast in each region anyway: those of
/// the linear, convolution and transposed convolution layers of `module`. Norms, embeddings, and
/// what modules of other kinds hold themselves stay as they are, and so does a weight that such a
/// module shares (an embedding tied to the last layer): a residual stream is still summed up in
/// float32, and the first forward under Autocast gives the same bits as before. Returns how many
/// tensors have `dtype` now because of it.
///
///   set_weight_dtype(*net, torch::kBFloat16);
///   Adam adam(net->parameters(), AdamOptions(1e-3).master_weights(MasterWeights::float32));
///
/// The parameters stay the same objects; gradients they have are dropped. Call it outside of
/// regions of Autocast, which may hold casts, and before ShadowWeights are made. On any device;
/// does not sync. Throws UsageError for a dtype other than float32, bfloat16, float16 and float64.
std::int64_t set_weight_dtype(torch::nn::Module& module, c10::ScalarType dtype);

}  // namespace halfstep::optim
