#pragma once
#include "halfstep/train/config/config.h"

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// One option of the group a parameter belongs to, and where the config says so.
struct GroupOption {
  nlohmann::json value;
  std::string place;
  /// Of the values: the place does not count.
  bool operator==(const GroupOption& other) const { return value == other.value; }
};

/// A parameter to train, with what `paramwise_cfg` gives it: "lr", "weight_decay" and whatever
/// further options its custom key has.
struct ParamwiseParameter {
  std::string name;
  torch::Tensor tensor;
  std::map<std::string, GroupOption> options;
};

/// `paramwise_cfg`: MMEngine's rules for the learning rate and the weight decay of single
/// parameters, in its order. Keys, none of which has a default:
///   - custom_keys: a mapping of texts to {lr_mult, decay_mult, and options of the optimizer}. A
///     parameter whose name holds the text takes these and no other rule; the longest text wins,
///     among equally long ones the first in the alphabet. MMEngine's name of a parameter of the
///     model itself begins with a dot.
///   - bias_lr_mult: parameters named "bias", but those of norms.
///   - norm_decay_mult (parameters of batch, instance, group and layer norms), bias_decay_mult,
///     dwconv_decay_mult (those of a Conv2d with as many groups as input channels, so also of one
///     with a single input channel), flat_decay_mult (parameters of one dimension): the first of
///     these that is given and fits decides.
///   - bypass_duplicate (false): a parameter with several names is taken under its first one, with
///     a warning, instead of being an error.
///
/// Difference from MMEngine: any decay rule, also flat_decay_mult, needs weight_decay in the
/// optimizer; a custom key that decides no parameter is warned about; dcn_offset_lr_mult is
/// unknown, because LibTorch has no deformable convolution.
class ParamwiseRules {
 public:
  /// Throws UsageError with file and line for what is not of its type, and for a rule about decay
  /// where `optimizer` does not give weight_decay.
  ParamwiseRules(Config paramwise_cfg, Config optimizer);

  /// The parameters of `module` in the order of named_parameters(), without those whose
  /// requires_grad is false, which is warned about. `base_lr` is what lr_mult multiplies. Throws
  /// UsageError for a parameter with two names unless bypass_duplicate is true.
  std::vector<ParamwiseParameter> apply(const torch::nn::Module& module, double base_lr);

  /// Sentences about what apply() passed over.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  struct CustomKey {
    std::string text;
    std::optional<double> lr_mult;
    std::optional<double> decay_mult;
    std::map<std::string, GroupOption> options;
    std::string lr_place, decay_place;
    bool decides = false;
  };
  struct Multiplier {
    std::optional<double> value;
    std::string place;
  };
  struct Walk;

  void read_custom_keys(Config& keys, Config& optimizer);
  Multiplier read_multiplier(const char* key, bool of_decay, Config& optimizer);
  void visit(const torch::nn::Module& module, const std::string& prefix, Walk& walk);
  bool apply_custom_key(ParamwiseParameter& parameter, const std::string& full_name,
                        double base_lr);
  void apply_rules(ParamwiseParameter& parameter, const torch::nn::Module& owner, bool is_bias,
                   double base_lr) const;

  Config config_;
  std::optional<double> weight_decay_;
  std::vector<CustomKey> custom_keys_;  // the one that wins first
  Multiplier bias_lr_, bias_decay_, norm_decay_, dwconv_decay_, flat_decay_;
  bool bypass_duplicate_;
  std::vector<std::string> warnings_;
};

}  // namespace halfstep::train
