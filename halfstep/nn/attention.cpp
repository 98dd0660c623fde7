#include "halfstep/nn/attention.h"

#include "halfstep/core/error.h"
#include "halfstep/core/low_precision_support.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_softmax.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/csrc/autograd/custom_function.h>

namespace halfstep::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Longer sequences spend more on the whole t × t scores than the products gain.
constexpr int64_t longest = 512;
// Scores computed at a time: 256 Ki, so that the four tensors of that size stay in the cache.
constexpr int64_t scores_at_once = 1 << 18;

// Heads of all examples as one batch.
at::Tensor batched(const at::Tensor& x) {
  return x.reshape({-1, x.size(2), x.size(3)});
}

class Attention : public torch::autograd::Function<Attention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query,
                            const at::Tensor& key, const at::Tensor& value, bool is_causal) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({query, key, value});
    context->saved_data["is_causal"] = is_causal;
    return std::get<0>(at::_scaled_dot_product_flash_attention_for_cpu(
        query, key, value, /*dropout_p=*/0.0, is_causal));
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    HALFSTEP_CHECK_USAGE(!at::GradMode::is_enabled(), "scaled_dot_product_attention",
                         "backward must be called without create_graph: there is no double "
                         "backward, but gradients are recorded here; compute the attention from "
                         "products and a softmax instead");
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
    const auto saved = context->get_saved_variables();
    const auto sizes = saved[0].sizes();
    const auto q = batched(saved[0]), k = batched(saved[1]), v = batched(saved[2]),
               out = batched(gradients[0]);
    const int64_t batch = q.size(0), length = q.size(1);
    const double scale = 1 / std::sqrt(static_cast<double>(q.size(2)));
    const bool is_causal = context->saved_data["is_causal"].toBool();
    at::Tensor mask = at::empty({1, 1, 1}, q.options());  // not causal: not read
    if (is_causal)
      mask = at::full({1, length, length}, -std::numeric_limits<double>::infinity(), q.options())
                 .triu_(1);

    auto grad_q = at::empty(q.sizes(), q.options()), grad_k = at::empty(q.sizes(), q.options()),
         grad_v = at::empty(q.sizes(), q.options());
    const int64_t step = std::max<int64_t>(1, scores_at_once / (length * length));
    for (int64_t start = 0; start < batch; start += step) {
      const auto part = [&](const at::Tensor& x) {
        return x.narrow(0, start, std::min(step, batch - start));
      };
      const auto scores =
          at::baddbmm(mask, part(q), part(k).transpose(1, 2), is_causal ? 1 : 0, scale);
      const auto weights = at::_softmax(scores, 2, false);
      auto to_v = part(grad_v), to_q = part(grad_q), to_k = part(grad_k);
      at::bmm_out(to_v, weights.transpose(1, 2), part(out));
      const auto grad_weights = at::bmm(part(out), part(v).transpose(1, 2));
      const auto grad_scores =
          at::_softmax_backward_data(grad_weights, weights, 2, weights.scalar_type());
      at::baddbmm_out(to_q, to_q, grad_scores, part(k), 0, scale);
      at::baddbmm_out(to_k, to_k, grad_scores.transpose(1, 2), part(q), 0, scale);
    }
    return {grad_q.view(sizes), grad_k.view(sizes), grad_v.view(sizes), {}};
  }
};

// What LibTorch's op would compute in, inside a region of autocast.
at::Tensor as_autocast_casts(const at::Tensor& x) {
  if (!at::autocast::is_autocast_enabled(at::kCPU)) return x;
  return at::autocast::cached_cast(at::autocast::get_autocast_dtype(at::kCPU), x, at::kCPU);
}

bool becomes_bfloat16(const at::Tensor& x) {
  const bool is_cast = at::autocast::is_autocast_enabled(at::kCPU) && x.is_floating_point() &&
                       x.scalar_type() != at::kDouble;
  return (is_cast ? at::autocast::get_autocast_dtype(at::kCPU) : x.scalar_type()) == at::kBFloat16;
}

bool wants_gradient(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::GradMode::is_enabled() &&
         (q.requires_grad() || k.requires_grad() || v.requires_grad());
}

bool is_ours(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto fits = [&](const at::Tensor& x) {
    return x.is_cpu() && becomes_bfloat16(x) && x.sizes() == q.sizes() && x.stride(-1) == 1;
  };
  return detail::cpu_multiplies_bfloat16() && at::globalContext().userEnabledFlashSDP() &&
         q.dim() == 4 && q.numel() > 0 && q.size(2) <= longest && fits(q) && fits(k) && fits(v) &&
         wants_gradient(q, k, v);
}

}  // namespace

bool detail::cpu_multiplies_bfloat16() {
  static const bool result = low_precision_support(c10::kCPU).bfloat16;
  return result;
}

at::Tensor scaled_dot_product_attention(const at::Tensor& query, const at::Tensor& key,
                                        const at::Tensor& value, bool is_causal) {
  if (is_ours(query, key, value))
    return Attention::apply(as_autocast_casts(query), as_autocast_casts(key),
                            as_autocast_casts(value), is_causal);
  return at::scaled_dot_product_attention(query, key, value, /*attn_mask=*/{}, /*dropout_p=*/0.0,
                                          is_causal);
}

}  // namespace halfstep::nn
