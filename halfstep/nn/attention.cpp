#include "halfstep/nn/attention.h"

#include "halfstep/core/error.h"
#include "halfstep/core/low_precision_support.h"
#include "halfstep/nn/attention_kernels.h"

#include <cmath>
#include <tuple>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace halfstep::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Longer sequences are not measured to be faster here.
constexpr int64_t longest = 2048;

template <class T, class Tensor>
detail::Heads<T> heads_of(Tensor& x) {
  T* data;
  if constexpr (std::is_const_v<T>)
    data = x.template const_data_ptr<std::remove_const_t<T>>();
  else
    data = x.template mutable_data_ptr<T>();
  return {data, x.stride(0), x.stride(1), x.stride(2)};
}

detail::HeadsIn in(const at::Tensor& x) {
  return heads_of<const c10::BFloat16>(x);
}

detail::HeadsOut out(const at::Tensor& x) {
  return heads_of<c10::BFloat16>(x);
}

detail::AttentionShape shape_of(const at::Tensor& q, bool is_causal) {
  return {q.size(0), q.size(1), q.size(2),
          q.size(3), is_causal, static_cast<float>(1 / std::sqrt(static_cast<double>(q.size(3))))};
}

// (n, heads, t, d) with the features of one position side by side over all heads, as LibTorch's
// kernel lays its output out.
at::Tensor empty_heads(const at::Tensor& like) {
  return at::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options())
      .transpose(1, 2);
}

std::tuple<at::Tensor, at::Tensor> attention_on_cpu(const at::Tensor& query, const at::Tensor& key,
                                                    const at::Tensor& value, bool is_causal) {
  auto output = empty_heads(query);
  auto logsumexp =
      at::empty({query.size(0), query.size(1), query.size(2)}, query.options().dtype(at::kFloat));
  detail::attention_forward(shape_of(query, is_causal), in(query), in(key), in(value), out(output),
                            logsumexp.mutable_data_ptr<float>());
  return {output, logsumexp};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward_on_cpu(
    const at::Tensor& grad, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const at::Tensor& output, const at::Tensor& logsumexp, bool is_causal) {
  auto grad_query = empty_heads(query), grad_key = empty_heads(key),
       grad_value = empty_heads(value);
  const auto dense = grad.stride(-1) == 1 ? grad : grad.contiguous();
  detail::attention_backward(shape_of(query, is_causal), in(query), in(key), in(value), in(output),
                             logsumexp.const_data_ptr<float>(), in(dense), out(grad_query),
                             out(grad_key), out(grad_value));
  return {grad_query, grad_key, grad_value};
}

// Ops of LibTorch's dispatcher, so that a Graph records them.
TORCH_LIBRARY_FRAGMENT(halfstep, library) {
  library.def(
      "attention(Tensor query, Tensor key, Tensor value, bool is_causal) -> (Tensor output, Tensor "
      "logsumexp)");
  library.def(
      "attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor output, "
      "Tensor logsumexp, bool is_causal) -> (Tensor, Tensor, Tensor)");
  library.impl("attention", torch::dispatch(at::kCPU, attention_on_cpu));
  library.impl("attention_backward", torch::dispatch(at::kCPU, attention_backward_on_cpu));
}

template <class Function>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

class Attention : public torch::autograd::Function<Attention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& query,
                            const at::Tensor& key, const at::Tensor& value, bool is_causal) {
    static const auto attention = op<decltype(attention_on_cpu)>("halfstep::attention");
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [output, logsumexp] = attention.call(query, key, value, is_causal);
    context->save_for_backward({query, key, value, output, logsumexp});
    context->saved_data["is_causal"] = is_causal;
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    HALFSTEP_CHECK_USAGE(!at::GradMode::is_enabled(), "scaled_dot_product_attention",
                         "backward must be called without create_graph: there is no double "
                         "backward, but gradients are recorded here; compute the attention from "
                         "products and a softmax instead");
    static const auto attention_backward =
        op<decltype(attention_backward_on_cpu)>("halfstep::attention_backward");
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
    const auto saved = context->get_saved_variables();
    auto [grad_query, grad_key, grad_value] =
        attention_backward.call(gradients[0], saved[0], saved[1], saved[2], saved[3], saved[4],
                                context->saved_data["is_causal"].toBool());
    return {grad_query, grad_key, grad_value, {}};
  }
};

bool autocasts() {
  return at::autocast::is_autocast_enabled(at::kCPU) &&
         !c10::impl::tls_is_dispatch_key_excluded(c10::DispatchKey::AutocastCPU);
}

// What LibTorch's op would compute in, inside a region of autocast.
at::Tensor as_autocast_casts(const at::Tensor& x) {
  if (!autocasts()) return x;
  return at::autocast::cached_cast(at::autocast::get_autocast_dtype(at::kCPU), x, at::kCPU);
}

bool becomes_bfloat16(const at::Tensor& x) {
  const bool is_cast = autocasts() && x.is_floating_point() && x.scalar_type() != at::kDouble;
  return (is_cast ? at::autocast::get_autocast_dtype(at::kCPU) : x.scalar_type()) == at::kBFloat16;
}

bool is_ours(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto fits = [&](const at::Tensor& x) {
    return x.is_cpu() && becomes_bfloat16(x) && x.sizes() == q.sizes() && x.stride(-1) == 1;
  };
  return detail::cpu_multiplies_bfloat16() && at::globalContext().userEnabledMkldnn() &&
         at::globalContext().userEnabledFlashSDP() && q.dim() == 4 && q.numel() > 0 &&
         q.size(2) <= longest && q.size(3) % 2 == 0 && fits(q) && fits(k) && fits(v) &&
         // Heads share no thread; LibTorch's kernel also cuts the queries of one.
         4 * q.size(0) * q.size(1) >= at::get_num_threads();
}

at::Tensor choose_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            bool is_causal) {
  if (is_ours(query, key, value))
    return Attention::apply(as_autocast_casts(query), as_autocast_casts(key),
                            as_autocast_casts(value), is_causal);
  return at::scaled_dot_product_attention(query, key, value, /*attn_mask=*/{}, /*dropout_p=*/0.0,
                                          is_causal);
}

// One op for whoever watches calls as they are written.
TORCH_LIBRARY_FRAGMENT(halfstep, library) {
  library.def(
      "scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, bool is_causal) -> "
      "Tensor",
      choose_attention);
}

/// A Graph plans its precision: it decides what the inputs are cast to.
bool is_planned() {
  constexpr auto key = c10::DispatchKey::DeferredInit;
  return c10::impl::tls_is_dispatch_key_included(key) &&
         !c10::impl::tls_is_dispatch_key_excluded(key);
}

}  // namespace

bool detail::cpu_multiplies_bfloat16() {
  static const bool result = low_precision_support(c10::kCPU).bfloat16;
  return result;
}

at::Tensor scaled_dot_product_attention(const at::Tensor& query, const at::Tensor& key,
                                        const at::Tensor& value, bool is_causal) {
  if (!is_planned()) return choose_attention(query, key, value, is_causal);
  static const auto whole =
      op<decltype(choose_attention)>("halfstep::scaled_dot_product_attention");
  return whole.call(query, key, value, is_causal);
}

}  // namespace halfstep::nn
