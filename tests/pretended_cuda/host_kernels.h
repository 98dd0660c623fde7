#pragma once
// What the pretended device and its captures share.
#include <ATen/core/Generator.h>
#include <ATen/core/List.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Allocator.h>

namespace halfstep::testing {

inline const c10::Device kPretendedDevice(c10::kCUDA, 0);

/// The value with `f` of each tensor in it, in order; a list becomes a new one.
template <class Function>
c10::IValue map_tensors(const c10::IValue& value, const Function& f) {
  if (value.isTensor()) return value.toTensor().defined() ? f(value.toTensor()) : value;
  if (value.isTensorList()) {
    c10::List<at::Tensor> mapped;
    for (const at::Tensor& tensor : value.toTensorVector())
      mapped.push_back(tensor.defined() ? f(tensor) : tensor);
    return mapped;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> mapped;
    for (const auto& tensor : value.toOptionalTensorVector())
      mapped.push_back(tensor && tensor->defined() ? std::optional(f(*tensor)) : tensor);
    return mapped;
  }
  return value;
}

c10::Allocator& device_allocator();
/// The CPU generator that a generator of the device, or its default one, draws from.
at::Generator host_generator(const at::Generator& generator = {});
void count_launch();
/// The host waits for the device: counted, and refused in a capture.
void host_waits(const char* why);
/// Puts the CPU's kernels on DispatchKey::CUDA.
void register_device_kernels();

}  // namespace halfstep::testing
