#pragma once
#include <ATen/core/Tensor.h>

namespace halfstep::nn {

/// softmax(query keyᵀ / √d) value, at::scaled_dot_product_attention without mask and dropout, with
/// CPU kernels for bfloat16 that are several times as fast, forward and backward.
///
/// (n, heads, t, d), key and value possibly of another length and heads, → (n, heads, t, d). With
/// `is_causal` position i sees positions 0 … i. Autocast casts the inputs as it does for LibTorch's
/// op. Never syncs with the device.
///
/// Output and gradients are those of at::scaled_dot_product_attention to the bit, but for bfloat16
/// tensors of one shape with t up to 2048 and an even d on a CPU that multiplies bfloat16
/// (AVX512-BF16 or AMX) and has no more than four threads a head: those go through oneDNN's
/// micro-kernels, scores and sums in float32 as in LibTorch's kernel and no less accurate, and
/// strided inputs are read as they lie. There is no double backward there: backward with
/// create_graph throws UsageError (Difference from LibTorch's kernel, which throws once something
/// is differentiated twice). A Graph's precision plan sees one op,
/// halfstep::scaled_dot_product_attention, with the colour of LibTorch's: white.
at::Tensor scaled_dot_product_attention(const at::Tensor& query, const at::Tensor& key,
                                        const at::Tensor& value, bool is_causal = false);

namespace detail {

/// Whether the CPU has instructions that multiply bfloat16.
bool cpu_multiplies_bfloat16();

}  // namespace detail

}  // namespace halfstep::nn
