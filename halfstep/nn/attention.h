#pragma once
#include <ATen/core/Tensor.h>

namespace halfstep::nn {

/// softmax(query keyᵀ / √d) value, at::scaled_dot_product_attention without mask and dropout, with
/// a backward for bfloat16 on the CPU that is up to four times as fast.
///
/// (n, heads, t, d), key and value possibly of another length and heads, → (n, heads, t, d). With
/// `is_causal` position i sees positions 0 … i. Autocast casts the inputs as it does for LibTorch's
/// op. Never syncs with the device.
///
/// The output is that of at::scaled_dot_product_attention to the bit. So are the gradients, but for
/// bfloat16 tensors of one shape with t up to 512 on a CPU that multiplies bfloat16 (AVX512-BF16 or
/// AMX): there LibTorch's kernel makes no use of that, and here they are batched products and a
/// softmax recomputed from bfloat16 scores (Difference from Python: relative errors near 4e-3
/// instead of 3e-3, and backward takes 2 MiB more, and dense copies of strided inputs). There is no
/// double backward: backward with create_graph throws UsageError (Difference from LibTorch's
/// kernel, which throws once something is differentiated twice).
at::Tensor scaled_dot_product_attention(const at::Tensor& query, const at::Tensor& key,
                                        const at::Tensor& value, bool is_causal = false);

namespace detail {

/// Whether the CPU has instructions that multiply bfloat16.
bool cpu_multiplies_bfloat16();

}  // namespace detail

}  // namespace halfstep::nn
