#pragma once
#include "halfstep/graph/recorder.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/types.h>

namespace halfstep::testing {

using Tensors = std::vector<torch::Tensor>;

/// The program of a function without parameters' gradients: of its inputs, and of tensors it uses
/// besides.
inline detail::Program recorded(
    const std::function<Tensors(const Tensors&)>& function, const Tensors& inputs,
    const std::vector<std::pair<std::string, torch::Tensor>>& used = {}) {
  const torch::nn::Module no_modules;
  const auto recorder = std::make_shared<detail::Recorder>(no_modules);
  for (size_t i = 0; i < inputs.size(); ++i)
    recorder->add_input(inputs[i], "input " + std::to_string(i));
  for (const auto& [name, tensor] : used) recorder->add_external(tensor, name);
  Tensors outputs;
  {
    const detail::RecordingGuard guard(recorder);
    outputs = function(inputs);
  }
  std::vector<std::optional<detail::ValueId>> ids;
  for (const auto& output : outputs) ids.emplace_back(recorder->value_of(output, "an output"));
  auto program = recorder->take_program();
  program.outputs = std::move(ids);
  return program;
}

}  // namespace halfstep::testing
