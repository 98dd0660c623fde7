#include "halfstep/train/optim/constructors.h"

namespace halfstep::train {

OptimWrapperConstructorRegistry& optim_wrapper_constructors() {
  static OptimWrapperConstructorRegistry registry("constructor");
  return registry;
}

BuiltOptimizer construct_optimizer(Config& optim_wrapper, const torch::nn::Module& module,
                                   const std::string& prefix) {
  constexpr const char* key = "constructor";
  const std::string standard = "DefaultOptimWrapperConstructor";
  const auto name = optim_wrapper.has(key) ? optim_wrapper.get<std::string>(key) : standard;
  if (name == standard) return build_optimizer(optim_wrapper, module, prefix);
  const auto& registry = optim_wrapper_constructors();
  if (const auto* construct = registry.find(name)) {
    auto built = (*construct)(optim_wrapper, module, prefix);
    size_t count = 0;
    for (const auto& group : built.optimizer->param_groups()) count += group.params().size();
    if (count != built.parameter_names.size())
      optim_wrapper.fail(key, "must name each parameter of its optimizer (" +
                                  std::to_string(count) + "), but gave " +
                                  std::to_string(built.parameter_names.size()) + " names");
    return built;
  }
  std::string known = standard;
  for (const auto& each : registry.names()) known += ", " + each;
  optim_wrapper.fail(key, "must be one that makes a single optimizer (" + known + ")");
}

}  // namespace halfstep::train
