#include "halfstep/train/files/rng_state.h"

#include "halfstep/core/device.h"
#include "halfstep/core/error.h"

#include <mutex>

#include <ATen/Context.h>
#include <torch/cuda.h>

namespace halfstep::train {
namespace {

// The generators of this machine by their names in a checkpoint.
std::map<std::string, at::Generator> generators() {
  std::map<std::string, at::Generator> result;
  result.emplace("rng.cpu", at::globalContext().defaultGenerator(c10::kCPU));
  const size_t devices = cuda_works() ? torch::cuda::device_count() : 0;
  for (size_t i = 0; i < devices; ++i) {
    const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(i));
    result.emplace(c10::str("rng.cuda.", i), at::globalContext().defaultGenerator(device));
  }
  return result;
}

void set_state(const std::string& name, at::Generator generator, const at::Tensor& state) {
  try {
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(state);
  } catch (const c10::Error& error) {
    halfstep::detail::raise<EnvironmentError>(
        "checkpoint", name, " must be a state of this LibTorch's generator, but it says: ",
        error.what_without_backtrace(), "; use the LibTorch the checkpoint was made with");
  }
}

}  // namespace

at::Tensor generator_state(c10::Device device) {
  auto generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_generator_state(c10::Device device, const at::Tensor& state) {
  set_state(c10::str("the generator of ", device), at::globalContext().defaultGenerator(device),
            state);
}

void save_rng(Checkpoint& checkpoint) {
  for (auto& [name, generator] : generators()) {
    const std::lock_guard<std::mutex> lock(generator.mutex());
    checkpoint.tensors[name] = generator.get_state();
  }
}

void load_rng(const Checkpoint& checkpoint) {
  HALFSTEP_CHECK_ENVIRONMENT(checkpoint.tensors.contains("rng.cpu"), "checkpoint",
                             "a checkpoint must have the generator's state rng.cpu, but has none; "
                             "use a checkpoint of halfstep train");
  for (auto& [name, generator] : generators()) {
    const auto saved = checkpoint.tensors.find(name);
    if (saved != checkpoint.tensors.end()) set_state(name, generator, saved->second);
  }
}

}  // namespace halfstep::train
