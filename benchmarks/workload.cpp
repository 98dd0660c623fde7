#include "benchmarks/workload.h"

#include "halfstep/core/error.h"
#include "halfstep/train/models/gpt.h"
#include "halfstep/train/models/mlp.h"
#include "halfstep/train/models/resnet.h"

#include <utility>

#include <torch/types.h>
#include <torch/utils.h>

namespace halfstep::benchmarks {
namespace {

constexpr int64_t tokens_per_sequence = 128;

struct Definition {
  const char* name;
  int64_t batch_size;
};

constexpr Definition definitions[]{
    {"mlp_small", 64}, {"mlp_large", 512}, {"resnet18", 64}, {"gpt", 16}};

std::shared_ptr<train::Model> new_network(const std::string& name, bool channels_last) {
  if (name == "mlp_small")
    return std::make_shared<train::Mlp>(train::Mlp::Options{{784, 256, 10}, "relu"});
  if (name == "mlp_large")
    return std::make_shared<train::Mlp>(train::Mlp::Options{{784, 2048, 2048, 10}, "relu"});
  if (name == "gpt") return std::make_shared<train::Gpt>(train::Gpt::Options{});
  train::ResNet18::Options options;
  options.channels_last = channels_last;
  return std::make_shared<train::ResNet18>(options);
}

Batch random_batch(const std::string& name, int64_t n) {
  torch::manual_seed(1);
  if (name == "gpt")
    return {torch::randint(256, {n, tokens_per_sequence}, torch::kLong),
            torch::randint(256, {n * tokens_per_sequence}, torch::kLong)};
  const auto target = torch::randint(10, {n}, torch::kLong);
  if (name == "resnet18") return {torch::rand({n, 1, 28, 28}), target};
  return {torch::rand({n, 784}), target};
}

}  // namespace

Workload::Workload(std::string name, int64_t batch_size)
    : name_(std::move(name)), batch_size_(batch_size) {
  for (const auto& definition : definitions) {
    if (definition.name != name_) continue;
    if (batch_size_ == 0) batch_size_ = definition.batch_size;
    return;
  }
  halfstep::detail::raise<UsageError>(
      "Workload", "name must be mlp_small, mlp_large, resnet18 or gpt, but got ", name_);
}

std::vector<std::string> Workload::names() {
  std::vector<std::string> result;
  for (const auto& definition : definitions) result.emplace_back(definition.name);
  return result;
}

std::shared_ptr<train::Model> Workload::network(const std::filesystem::path& file,
                                                bool channels_last) const {
  torch::manual_seed(0);
  auto network = new_network(name_, channels_last);
  if (file.empty()) return network;
  const auto tensors = train::load_safetensors(file).tensors;
  const torch::NoGradGuard no_grad;
  for (auto& parameter : network->named_parameters()) {
    const auto found = tensors.find("model." + parameter.key());
    HALFSTEP_CHECK_USAGE(
        found != tensors.end() && found->second.sizes() == parameter.value().sizes(), "Workload",
        file.string(), " must hold model.", parameter.key(), " of shape ",
        parameter.value().sizes(), ", but it does not; are both sides of the same version?");
    parameter.value().copy_(found->second);
  }
  return network;
}

Batch Workload::batch(const std::filesystem::path& file, bool channels_last) const {
  Batch batch = random_batch(name_, batch_size_);
  if (!file.empty()) {
    auto tensors = train::load_safetensors(file).tensors;
    batch = {tensors.at("input"), tensors.at("target")};
    HALFSTEP_CHECK_USAGE(batch.input.size(0) == batch_size_, "Workload", file.string(),
                         " must hold a batch of ", batch_size_, ", but got ", batch.input.size(0));
  }
  if (channels_last && batch.input.dim() == 4)
    batch.input = batch.input.contiguous(at::MemoryFormat::ChannelsLast);
  return batch;
}

}  // namespace halfstep::benchmarks
