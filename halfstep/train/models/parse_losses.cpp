#include "halfstep/train/models/parse_losses.h"

#include "halfstep/core/error.h"

#include <ATen/TensorOperators.h>

namespace halfstep::train {

namespace {

// A scalar as it is: its mean would be one more node of the graph.
at::Tensor mean_of(const LossTerm& term, const std::string& name) {
  at::Tensor sum;
  for (const auto& tensor : term.tensors()) {
    HALFSTEP_CHECK_USAGE(tensor.defined(), "parse_losses", "each term must be a tensor, but '",
                         name, "' has an undefined one; leave it out");
    const auto mean = tensor.dim() == 0 ? tensor : tensor.mean();
    sum = sum.defined() ? sum + mean : mean;
  }
  HALFSTEP_CHECK_USAGE(sum.defined(), "parse_losses", "each term must have a tensor, but '", name,
                       "' is an empty list; leave it out");
  return sum;
}

}  // namespace

std::pair<at::Tensor, LogVars> parse_losses(const Losses& losses) {
  at::Tensor loss;
  std::vector<std::pair<std::string, at::Tensor>> terms;
  std::string names;
  for (const auto& item : losses) {
    const auto value = mean_of(item.value(), item.key());
    if (item.key().find("loss") != std::string::npos) loss = loss.defined() ? loss + value : value;
    if (item.key() != "loss") terms.emplace_back(item.key(), value.detach());
    names += (names.empty() ? "" : ", ") + item.key();
  }
  HALFSTEP_CHECK_USAGE(loss.defined(), "parse_losses",
                       "a name with 'loss' in it must say what is trained, but got ",
                       names.empty() ? "no terms" : names, "; call the term loss_…");
  LogVars log_vars;
  log_vars.insert("loss", loss.detach());
  for (auto& [name, value] : terms) log_vars.insert(name, std::move(value));
  return {loss, std::move(log_vars)};
}

}  // namespace halfstep::train
