#include "halfstep/inspect/dtype_report.h"

#include "halfstep/core/dtype.h"

#include <unordered_map>
#include <vector>

namespace halfstep::inspect {

namespace {

struct Kind {
  std::string_view name;
  std::vector<std::string_view> ops;
};

const std::vector<Kind>& kinds_in_order() {
  static const std::vector<Kind> kinds{
      {"linear",
       {"linear", "addmm", "_addmm_activation", "mm", "matmul", "bmm", "baddbmm", "addbmm", "mv",
        "addmv", "bilinear", "einsum", "tensordot", "chain_matmul", "linalg_multi_dot"}},
      {"convolution",
       {"conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d",
        "conv_transpose3d", "convolution", "_convolution"}},
      {"attention", {"scaled_dot_product_attention", "_native_multi_head_attention"}},
      {"recurrent",
       {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell",
        "rnn_relu_cell"}},
      {"embedding", {"embedding", "embedding_bag"}},
      {"batch_norm", {"batch_norm", "native_batch_norm", "instance_norm"}},
      {"layer_norm",
       {"layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "rms_norm"}},
      {"dropout",
       {"dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}},
      {"pooling",
       {"max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
        "adaptive_max_pool2d", "adaptive_max_pool3d", "fractional_max_pool2d",
        "fractional_max_pool3d"}},
      {"activation", {"relu",        "relu6",       "leaky_relu", "rrelu",    "prelu", "elu",
                      "selu",        "celu",        "gelu",       "silu",     "mish",  "sigmoid",
                      "log_sigmoid", "hardsigmoid", "hardswish",  "hardtanh", "tanh",  "softplus",
                      "softshrink",  "hardshrink",  "glu"}},
      {"softmax", {"softmax", "log_softmax", "_softmax", "_log_softmax"}},
      {"loss",
       {"cross_entropy_loss",
        "nll_loss",
        "nll_loss2d",
        "nll_loss_nd",
        "mse_loss",
        "l1_loss",
        "smooth_l1_loss",
        "huber_loss",
        "kl_div",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "poisson_nll_loss",
        "ctc_loss",
        "hinge_embedding_loss",
        "cosine_embedding_loss",
        "margin_ranking_loss",
        "multi_margin_loss",
        "multilabel_margin_loss",
        "soft_margin_loss",
        "triplet_margin_loss"}},
  };
  return kinds;
}

void add(std::map<std::string, DtypeCounts>& to, const std::map<std::string, DtypeCounts>& from) {
  for (const auto& [name, counts] : from) {
    for (const auto& [dtype, count] : counts) to[name][dtype] += count;
  }
}

}  // namespace

DtypeReport& DtypeReport::operator+=(const DtypeReport& other) {
  add(ops, other.ops);
  add(kinds, other.kinds);
  return *this;
}

bool DtypeReport::any_low_precision() const {
  for (const auto& [name, counts] : ops) {
    for (const auto& [dtype, count] : counts) {
      if (is_low_precision(dtype) && count > 0) return true;
    }
  }
  return false;
}

std::string DtypeReport::summary() const {
  std::string text;
  for (const auto& kind : kinds_in_order()) {
    const auto found = kinds.find(std::string(kind.name));
    if (found == kinds.end()) continue;
    text += (text.empty() ? "" : ", ") + found->first;
    for (const auto& [dtype, count] : found->second)
      text += " " + dtype_name(dtype) + " x" + std::to_string(count);
  }
  if (text.empty()) text = "no layer ran";
  return any_low_precision() ? text : text + " (nothing was cast to 16 bits)";
}

std::string_view kind_of_op(std::string_view op) {
  static const auto kinds = [] {
    std::unordered_map<std::string_view, std::string_view> result;
    for (const auto& kind : kinds_in_order()) {
      for (const auto name : kind.ops) result.emplace(name, kind.name);
    }
    return result;
  }();
  // relu_ is relu in place.
  const auto found = kinds.find(op.ends_with('_') ? op.substr(0, op.size() - 1) : op);
  return found == kinds.end() ? std::string_view() : found->second;
}

}  // namespace halfstep::inspect
