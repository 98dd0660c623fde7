#pragma once
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/ordered_dict.h>

namespace halfstep::train {

/// One term of a loss: a tensor, or several whose means are added up.
class LossTerm {
 public:
  /// Not explicit, so that a tensor, or a list of them, is a term.
  LossTerm(at::Tensor tensor) : tensors_{std::move(tensor)} {}
  LossTerm(std::vector<at::Tensor> tensors) : tensors_(std::move(tensors)) {}

  const std::vector<at::Tensor>& tensors() const { return tensors_; }

 private:
  std::vector<at::Tensor> tensors_;
};

/// What a model's `loss` gives: its terms by name.
///
///   return {{"loss_cls", cross_entropy}, {"loss_box", std::vector{small, large}}, {"acc", share}};
using Losses = torch::OrderedDict<std::string, LossTerm>;

/// What a training step gives to be logged: 0-dim tensors by name, on the device, detached.
using LogVars = torch::OrderedDict<std::string, at::Tensor>;

/// The loss to train with, a 0-dim tensor, and all terms for the log. Each term is the mean of its
/// elements; those with "loss" in their name are added up, and their sum is logged first, as
/// "loss". Does not sync. Throws UsageError where no name has "loss" in it, and for an undefined
/// tensor.
///
/// Differences from MMEngine: what is logged is detached; a term named "loss" beside others is
/// counted but not logged, as the sum has its name (there it hides the sum).
std::pair<at::Tensor, LogVars> parse_losses(const Losses& losses);

}  // namespace halfstep::train
