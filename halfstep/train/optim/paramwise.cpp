#include "halfstep/train/optim/paramwise.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/instancenorm.h>
#include <torch/nn/modules/normalization.h>

namespace halfstep::train {

namespace {

template <class... Impls>
bool is_one_of(const torch::nn::Module& module) {
  return (... || (dynamic_cast<const Impls*>(&module) != nullptr));
}

bool is_norm(const torch::nn::Module& module) {
  using namespace torch::nn;
  return is_one_of<BatchNorm1dImpl, BatchNorm2dImpl, BatchNorm3dImpl, InstanceNorm1dImpl,
                   InstanceNorm2dImpl, InstanceNorm3dImpl, GroupNormImpl, LayerNormImpl>(module);
}

bool is_depthwise(const torch::nn::Module& module) {
  const auto* conv = dynamic_cast<const torch::nn::Conv2dImpl*>(&module);
  return conv && conv->options.in_channels() == conv->options.groups();
}

void check_weight_decay(Config& config, const std::string& key, Config& optimizer) {
  if (optimizer.has("weight_decay")) return;
  config.fail(key, "must stand beside a weight_decay in the optimizer (" + optimizer.where() +
                       "), which it multiplies");
}

}  // namespace

struct ParamwiseRules::Walk {
  double base_lr;
  std::vector<ParamwiseParameter> parameters;
  std::map<const c10::TensorImpl*, std::string> names;
};

ParamwiseRules::ParamwiseRules(Config paramwise_cfg, Config optimizer)
    : config_(std::move(paramwise_cfg)) {
  if (optimizer.has("weight_decay")) weight_decay_ = optimizer.get<double>("weight_decay");
  if (auto keys = config_.child_if("custom_keys")) read_custom_keys(*keys, optimizer);
  bias_lr_ = read_multiplier("bias_lr_mult", false, optimizer);
  bias_decay_ = read_multiplier("bias_decay_mult", true, optimizer);
  norm_decay_ = read_multiplier("norm_decay_mult", true, optimizer);
  dwconv_decay_ = read_multiplier("dwconv_decay_mult", true, optimizer);
  flat_decay_ = read_multiplier("flat_decay_mult", true, optimizer);
  bypass_duplicate_ = config_.get<bool>("bypass_duplicate", false);
}

void ParamwiseRules::read_custom_keys(Config& keys, Config& optimizer) {
  for (const auto& text : keys.keys()) {
    if (!keys.has(text)) continue;
    auto given = keys.child(text);
    CustomKey custom;
    custom.text = text;
    const auto values = given.to_json();
    for (const auto& key : given.keys()) {
      if (!given.has(key)) continue;
      if (key == "lr_mult") {
        custom.lr_mult = given.get<double>(key);
        custom.lr_place = given.where(key);
      } else if (key == "decay_mult") {
        check_weight_decay(given, key, optimizer);
        custom.decay_mult = given.get<double>(key);
        custom.decay_place = given.where(key);
      } else if (key == "type" || key == "master_weights") {
        given.fail(key, "must be set in the optimizer: it holds for all parameters");
      } else {
        given.ignore(key);
        custom.options[key] = {values.at(key), given.where(key)};
      }
    }
    custom_keys_.push_back(std::move(custom));
  }
  std::sort(custom_keys_.begin(), custom_keys_.end(), [](const auto& a, const auto& b) {
    return std::pair(b.text.size(), std::string_view(a.text)) <
           std::pair(a.text.size(), std::string_view(b.text));
  });
}

ParamwiseRules::Multiplier ParamwiseRules::read_multiplier(const char* key, bool of_decay,
                                                           Config& optimizer) {
  if (!config_.has(key)) return {};
  if (of_decay) check_weight_decay(config_, key, optimizer);
  return {config_.get<double>(key), config_.where(key)};
}

std::vector<ParamwiseParameter> ParamwiseRules::apply(const torch::nn::Module& module,
                                                      double base_lr) {
  warnings_.clear();
  for (auto& custom : custom_keys_) custom.decides = false;
  Walk walk{base_lr, {}, {}};
  visit(module, "", walk);
  for (const auto& custom : custom_keys_)
    if (!custom.decides)
      warnings_.push_back("the custom key '" + custom.text + "' of " +
                          config_.where("custom_keys") + " decides no parameter");
  return std::move(walk.parameters);
}

// Named_parameters() does not tell whose a parameter is.
void ParamwiseRules::visit(const torch::nn::Module& module, const std::string& prefix, Walk& walk) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    const auto name = prefix.empty() ? item.key() : prefix + "." + item.key();
    const auto& tensor = item.value();
    if (const auto first = walk.names.find(tensor.unsafeGetTensorImpl());
        first != walk.names.end()) {
      if (!bypass_duplicate_)
        config_.fail("bypass_duplicate", "must be true to train a model in which '" + name +
                                             "' and '" + first->second + "' are one parameter");
      warnings_.push_back("'" + name + "' is '" + first->second +
                          "' and left out, as bypass_duplicate says");
      continue;
    }
    if (!tensor.requires_grad()) {
      warnings_.push_back("'" + name + "' is not trained: its requires_grad is false");
      continue;
    }
    walk.names.emplace(tensor.unsafeGetTensorImpl(), name);
    auto& parameter = walk.parameters.emplace_back(ParamwiseParameter{name, tensor, {}});
    if (!apply_custom_key(parameter, prefix + "." + item.key(), walk.base_lr))
      apply_rules(parameter, module, item.key() == "bias", walk.base_lr);
  }
  for (const auto& child : module.named_children())
    visit(*child.value(), prefix.empty() ? child.key() : prefix + "." + child.key(), walk);
}

bool ParamwiseRules::apply_custom_key(ParamwiseParameter& parameter, const std::string& full_name,
                                      double base_lr) {
  const auto found = std::find_if(
      custom_keys_.begin(), custom_keys_.end(),
      [&](const CustomKey& custom) { return full_name.find(custom.text) != full_name.npos; });
  if (found == custom_keys_.end()) return false;
  found->decides = true;
  // Options given by themselves replace products, as they do in MMEngine.
  parameter.options = found->options;
  if (found->lr_mult)
    parameter.options.try_emplace("lr", GroupOption{base_lr * *found->lr_mult, found->lr_place});
  if (found->decay_mult)
    parameter.options.try_emplace(
        "weight_decay", GroupOption{*weight_decay_ * *found->decay_mult, found->decay_place});
  return true;
}

void ParamwiseRules::apply_rules(ParamwiseParameter& parameter, const torch::nn::Module& owner,
                                 bool is_bias, double base_lr) const {
  const bool norm = is_norm(owner);
  if (is_bias && !norm && bias_lr_.value)
    parameter.options["lr"] = {base_lr * *bias_lr_.value, bias_lr_.place};
  const std::array<std::pair<bool, const Multiplier*>, 4> decays{{
      {norm, &norm_decay_},
      {is_bias, &bias_decay_},
      {is_depthwise(owner), &dwconv_decay_},
      {parameter.tensor.dim() == 1, &flat_decay_},
  }};
  for (const auto& [fits, multiplier] : decays) {
    if (!fits || !multiplier->value) continue;
    parameter.options["weight_decay"] = {*weight_decay_ * *multiplier->value, multiplier->place};
    return;
  }
}

}  // namespace halfstep::train
