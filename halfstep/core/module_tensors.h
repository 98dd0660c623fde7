#pragma once
#include "halfstep/core/nested.h"

#include <functional>
#include <optional>
#include <type_traits>

#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>
#include <torch/nn/module.h>

namespace halfstep::detail {

/// Casts the floating-point parameters and buffers of a module tree to `dtype` in place, those of
/// modules that `wanted` names (null: all). Difference from torch::nn::Module::to: integer buffers
/// stay what they are.
void cast_floating_tensors(torch::nn::Module& model, c10::ScalarType dtype,
                           const std::function<bool(const torch::nn::Module&)>& wanted = nullptr);

/// The device type of a module's first parameter, else of its first buffer; none where it has
/// neither.
std::optional<c10::DeviceType> device_type_of(const torch::nn::Module& module);

/// Which device type a call of a module is for: that of the first tensor among the arguments, else
/// the module's, else the CPU. `object` may be of any class.
template <class Object, class... Arguments>
c10::DeviceType device_type_of_call(const Object& object, const Arguments&... arguments) {
  auto device_type = first_device_type(arguments...);
  if constexpr (std::is_base_of_v<torch::nn::Module, Object>) {
    if (!device_type) device_type = device_type_of(object);
  }
  return device_type.value_or(c10::DeviceType::CPU);
}

}  // namespace halfstep::detail
