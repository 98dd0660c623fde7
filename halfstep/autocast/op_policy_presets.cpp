#include "halfstep/autocast/op_names.h"
#include "halfstep/autocast/op_policy.h"
#include "halfstep/autocast/stock_rules.h"
#include "halfstep/core/error.h"
#include "halfstep/core/nearest.h"

namespace halfstep {

namespace {

using RuleOfOp = std::map<std::string, CastRule>;

/// Ops by the names OpPolicy::set takes. All exist in every LibTorch halfstep builds with.
void add(RuleOfOp& rules, CastRule rule, const std::vector<std::string>& names) {
  for (const auto& name : names) {
    for (const auto& op : detail::ops_named(name))
      rules.insert_or_assign(detail::op_name(op.operator_name()), rule);
  }
}

RuleOfOp stock(c10::DeviceType device_type) {
  RuleOfOp rules;
  for (const auto& [op, stock] : detail::stock_rules(device_type)) rules.emplace(op, stock.rule);
  return rules;
}

/// CUDA's list with what an LSTM layer is on a CPU beside what it is on CUDA, so that it may be
/// given to a region of either.
RuleOfOp cuda_anywhere() {
  auto rules = stock(c10::kCUDA);
  add(rules, CastRule::lower_precision, {"mkldnn_rnn_layer"});
  return rules;
}

bool is_float32(CastRule rule) {
  return rule == CastRule::float32 || rule == CastRule::float32_set_dtype ||
         rule == CastRule::float32_append_dtype;
}

std::string torch_name(c10::DeviceType device_type) {
  return "torch(" + c10::DeviceTypeName(device_type, /*lower_case=*/true) + ")";
}

}  // namespace

OpPolicy OpPolicy::torch(c10::DeviceType device_type) {
  return {torch_name(device_type),
          device_type == c10::kCUDA ? cuda_anywhere() : stock(device_type)};
}

OpPolicy OpPolicy::safe() {
  auto rules = stock(c10::kCUDA);
  for (const auto& [op, rule] : stock(c10::kCPU)) {
    const auto [found, is_new] = rules.try_emplace(op, rule);
    if (!is_new && is_float32(rule) && !is_float32(found->second)) found->second = rule;
  }
  add(rules, CastRule::float32,
      {"batch_norm", "instance_norm", "rms_norm", "mean", "nansum", "var", "std", "var_mean",
       "std_mean", "cross_entropy_loss", "ctc_loss", "log_sigmoid", "logcumsumexp"});
  return {"safe", rules};
}

OpPolicy OpPolicy::mmcv() {
  auto rules = cuda_anywhere();
  for (auto& [op, rule] : rules) {
    if (rule == CastRule::promote) rule = CastRule::promote_or_lower;
  }
  add(rules, CastRule::promote_or_lower, {"cat", "stack", "equal"});
  add(rules, CastRule::float32, {"binary_cross_entropy"});
  return {"mmcv", rules};
}

OpPolicy OpPolicy::oneflow() {
  RuleOfOp rules;
  for (const auto device_type : {c10::kCPU, c10::kCUDA}) {
    for (const auto& [op, rule] : stock(device_type)) {
      if (rule != CastRule::banned) rules.insert_or_assign(op, CastRule::float32);
    }
  }
  // White.
  add(rules, CastRule::lower_precision,
      {"linear", "matmul", "conv2d", "prelu", "binary_cross_entropy_with_logits",
       "scaled_dot_product_attention"});
  // Gray and clear. Those of one input keep its dtype and need no rule.
  add(rules, CastRule::promote,
      {"add", "sub", "mul", "div", "layer_norm", "group_norm", "rms_norm", "nll_loss", "nll_loss2d",
       "cross_entropy_loss", "cat", "stack", "where", "gather"});
  for (const auto* one_input :
       {"sum", "softmax.int", "log_softmax.int", "reciprocal", "upsample_nearest2d"}) {
    for (const auto& op : detail::ops_named(one_input))
      rules.erase(detail::op_name(op.operator_name()));
  }
  return {"oneflow", rules};
}

OpPolicy OpPolicy::oneflow_graph() {
  RuleOfOp rules;
  // White.
  add(rules, CastRule::lower_precision,
      {"matmul", "conv2d", "prelu", "binary_cross_entropy_with_logits",
       "scaled_dot_product_attention"});
  // Gray. OneFlow computes a mean as a sum and a product.
  add(rules, CastRule::promote,
      {"add",        "sub",        "rsub",        "mul",        "div",
       "pow",        "sum",        "mean",        "tanh",       "sqrt",
       "reciprocal", "gelu",       "silu",        "dropout",    "softmax.int",
       "layer_norm", "group_norm", "rms_norm",    "batch_norm", "log_softmax.int",
       "nll_loss",   "nll_loss2d", "nll_loss_nd", "avg_pool1d", "cross_entropy_loss",
       "avg_pool2d", "avg_pool3d"});
  // Clear: the same for what one op does there and another here. Not view.dtype, which depends on
  // the bits.
  add(rules, CastRule::keep,
      {"relu",
       "max_pool1d",
       "max_pool2d",
       "max_pool3d",
       "max_pool1d_with_indices",
       "reshape",
       "view.default",
       "flatten",
       "unflatten",
       "max_pool2d_with_indices",
       "transpose",
       "t",
       "permute",
       "numpy_T",
       "max_pool3d_with_indices",
       "cat",
       "concat",
       "stack",
       "chunk",
       "split",
       "unbind",
       "narrow",
       "slice.Tensor",
       "select",
       "split_with_sizes",
       "index",
       "index_select",
       "gather",
       "embedding",
       "constant_pad_nd",
       "pad",
       "tril",
       "alias",
       "detach",
       "squeeze",
       "unsqueeze",
       "expand",
       "expand_as",
       "broadcast_to",
       "repeat",
       "ones_like",
       "clone",
       "contiguous",
       "where",
       "masked_fill",
       "fill",
       "copy",
       "view_as",
       "reshape_as",
       "upsample_nearest2d",
       "_unsafe_view"});
  return {"oneflow_graph", rules};
}

OpPolicy OpPolicy::apex() {
  RuleOfOp rules;
  add(rules, CastRule::lower_precision,
      {"conv", "prelu", "addmm", "addmv", "addr", "matmul", "mm", "mv", "linear", "bmm", "addbmm",
       "baddbmm"});
  // Apex has these by a code of their own.
  add(rules, CastRule::lower_precision,
      {"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "_thnn_fused_lstm_cell",
       "_thnn_fused_gru_cell", "_cudnn_rnn", "mkldnn_rnn_layer"});
  add(rules, CastRule::float32,
      {"acos",
       "asin",
       "cosh",
       "erfinv",
       "exp",
       "expm1",
       "log",
       "log10",
       "log2",
       "reciprocal",
       "rsqrt",
       "sinh",
       "tan",
       "pow",
       "cumprod",
       "cumsum",
       "dist",
       "norm",
       "prod",
       "std",
       "sum",
       "var",
       "renorm",
       "softmax.int",
       "log_softmax.int",
       "gelu",
       "softplus",
       "layer_norm",
       "group_norm",
       "cosine_similarity",
       "poisson_nll_loss",
       "cosine_embedding_loss",
       "cross_entropy_loss",
       "hinge_embedding_loss",
       "kl_div",
       "l1_loss",
       "mse_loss",
       "margin_ranking_loss",
       "multilabel_margin_loss",
       "nll_loss",
       "nll_loss2d",
       "soft_margin_loss",
       "smooth_l1_loss",
       "triplet_margin_loss",
       "multi_margin_loss",
       "binary_cross_entropy_with_logits",
       "upsample_nearest1d",
       "upsample_nearest2d",
       "upsample_nearest3d",
       "upsample_linear1d",
       "upsample_bilinear2d",
       "upsample_trilinear3d",
       "upsample_bicubic2d",
       "_upsample_nearest_exact1d",
       "_upsample_nearest_exact2d",
       "_upsample_nearest_exact3d",
       "_upsample_bilinear2d_aa",
       "_upsample_bicubic2d_aa",
       "grid_sampler"});
  add(rules, CastRule::promote,
      {"add", "sub", "mul", "div", "addcdiv", "addcmul", "atan2", "cross", "bilinear", "dot", "eq",
       "equal", "ge", "gt", "le", "lt", "ne", "cat", "stack"});
  add(rules, CastRule::banned, {"binary_cross_entropy"});
  return {"apex", rules};
}

OpPolicy OpPolicy::preset(std::string_view name, c10::DeviceType device_type) {
  if (name == "none") return {};
  if (name == "torch") return torch(device_type);
  if (name == "safe") return safe();
  if (name == "mmcv") return mmcv();
  if (name == "oneflow") return oneflow();
  if (name == "oneflow_graph") return oneflow_graph();
  if (name == "apex") return apex();
  for (const auto type : {c10::kCPU, c10::kCUDA}) {
    if (name == torch_name(type)) return torch(type);
  }
  const std::vector<std::string> names{"torch",   "torch(cpu)",    "torch(cuda)", "safe", "mmcv",
                                       "oneflow", "oneflow_graph", "apex",        "none"};
  const auto hint = suggest(name, names);
  detail::raise<UsageError>("OpPolicy",
                            "a preset must be torch, torch(cpu), torch(cuda), safe, mmcv, oneflow, "
                            "oneflow_graph, apex or none, but got '",
                            name, "'; ", hint.empty() ? "use one of them" : hint);
}

}  // namespace halfstep
