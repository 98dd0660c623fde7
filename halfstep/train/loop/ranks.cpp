#include "halfstep/train/loop/ranks.h"

#include "halfstep/core/error.h"
#include "halfstep/train/loop/run_parts.h"

#include <algorithm>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace halfstep::train {

namespace {

dist::GradientCompression read_compression(Config& mapping) {
  constexpr const char* key = "gradient_compression";
  const auto name = mapping.get<std::string>(key, "none");
  if (name == "none") return dist::GradientCompression::none;
  if (name == "float16" || name == "fp16") return dist::GradientCompression::float16;
  if (name == "bfloat16" || name == "bf16") return dist::GradientCompression::bfloat16;
  mapping.fail(key, "must be none, float16 or bfloat16");
}

std::chrono::milliseconds read_seconds(Config& mapping, const char* key,
                                       std::chrono::milliseconds usual) {
  constexpr double most = 1e6;
  const auto seconds = mapping.get<double>(key, static_cast<double>(usual.count()) / 1000);
  if (!(seconds > 0 && seconds < most)) mapping.fail(key, "must be above 0 and below 1e6 s");
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

dist::NamedTensors parameters_of(const WrapperParts& parts) {
  dist::NamedTensors result;
  size_t index = 0;
  for (const auto& group : std::as_const(*parts.wrapper).param_groups())
    for (const auto& parameter : group.params())
      result.insert(parts.parameter_names[index++], parameter);
  return result;
}

}  // namespace

dist::DistributedDataParallelOptions read_ddp_options(Config& config) {
  dist::DistributedDataParallelOptions options;
  constexpr const char* unused = "find_unused_parameters";
  if (config.has(unused)) options.find_unused_parameters(config.get<bool>(unused));
  auto mapping = config.child_if("model_wrapper_cfg");
  if (!mapping) return options;
  const auto type = mapping->get<std::string>("type", "DistributedDataParallel");
  if (type != "DistributedDataParallel" && type != "MMDistributedDataParallel" &&
      type != "MMSeparateDistributedDataParallel")
    mapping->fail("type",
                  "must be DistributedDataParallel (or MMDistributedDataParallel, "
                  "MMSeparateDistributedDataParallel, which are the same here)");
  if (mapping->has(unused) && config.has(unused))
    config.fail(unused, "must be left out where model_wrapper_cfg has it");
  options.find_unused_parameters(mapping->get<bool>(unused, options.find_unused_parameters()));
  options.broadcast_buffers(mapping->get<bool>("broadcast_buffers", options.broadcast_buffers()));
  options.gradient_as_bucket_view(
      mapping->get<bool>("gradient_as_bucket_view", options.gradient_as_bucket_view()));
  options.bucket_cap_mb(mapping->get<double>("bucket_cap_mb", options.bucket_cap_mb()));
  if (!(options.bucket_cap_mb() > 0 && options.bucket_cap_mb() < 1 << 20))
    mapping->fail("bucket_cap_mb", "must be above 0 and below 2^20");
  options.gradient_compression(read_compression(*mapping));
  return options;
}

void read_dist_cfg(Config& config, dist::ProcessGroupOptions& options) {
  auto env_cfg = config.child_if("env_cfg");
  if (!env_cfg) return;
  auto mapping = env_cfg->child_if("dist_cfg");
  if (!mapping) return;
  const auto backend = mapping->get<std::string>("backend", "automatic");
  if (backend == "gloo")
    options.backend(dist::Backend::gloo);
  else if (backend == "nccl")
    options.backend(dist::Backend::nccl);
  else if (backend != "automatic")
    mapping->fail("backend", "must be automatic, gloo or nccl");
  options.timeout(read_seconds(*mapping, "timeout", options.timeout()));
  options.join_timeout(read_seconds(*mapping, "join_timeout", options.join_timeout()));
}

Ranks::Ranks(dist::ProcessGroup* group)
    : group_(group != nullptr && group->world_size() > 1 ? group : nullptr) {}

Ranks::~Ranks() = default;

void Ranks::check_same(const char* where, const std::string& what, const std::string& text,
                       const std::string& advice) const {
  if (group_ != nullptr) group_->check_same(where, what, text, advice);
}

void Ranks::connect(RunParts& parts) {
  if (group_ == nullptr) return;
  const auto& options = parts.ddp;
  buffers_ = parts.model->named_buffers();
  broadcasts_buffers_ = options.broadcast_buffers();
  dist::check_same_form(*group_, buffers_, "the buffers");
  for (auto& wrapper : parts.wrappers) {
    reducers_.push_back(
        std::make_unique<dist::GradientReducer>(parameters_of(wrapper), *group_, options));
    auto& reducer = *reducers_.back();
    auto& each = *wrapper.wrapper;
    each.before_backward([this, &reducer, &each](const at::Tensor& loss) {
      auto weighted = weight_ == 1 ? loss : loss * weight_;
      if (each.should_sync()) reducer.prepare_for_backward({weighted});
      return weighted;
    });
  }
  const auto parameters = parts.model->named_parameters();
  dist::check_same_form(*group_, parameters, "the model's parameters");
  for (const auto& tensors : {parameters, buffers_}) {
    dist::broadcast_all_(*group_, tensors);
    dist::check_same_values(*group_, tensors, "what rank 0 gave to all");
  }
}

void Ranks::begin_step(double weight) {
  if (group_ == nullptr) return;
  weight_ = weight;
  for (const auto& reducer : reducers_) reducer->keep_hooks();
  if (broadcasts_buffers_) sync_buffers();
}

void Ranks::check_reduced(size_t wrapper) {
  if (group_ != nullptr) reducers_[wrapper]->check_reduced();
}

void Ranks::sync_buffers() {
  if (group_ != nullptr) dist::broadcast_all_(*group_, buffers_);
}

int Ranks::agree(int wish) {
  if (group_ == nullptr) return wish;
  int agreed = 0;
  if (pending_) {
    pending_->wait();
    agreed = wish_.item<int>();
  }
  const auto ask = [&] {
    wish_ = at::scalar_tensor(wish, at::kInt);
    std::vector<at::Tensor> tensors{wish_};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::MAX;
    group_->count_exchange();
    pending_ = group_->handle()->allreduce(tensors, options);
  };
  ask();
  if (std::exchange(agreed_before_, true)) return agreed;
  pending_->wait();
  return wish_.item<int>();
}

SumOverRanks Ranks::sum() const {
  if (group_ == nullptr) return {};
  return [group = group_](const at::Tensor& tensor) {
    auto result = tensor.clone();
    group->all_reduce_(result);
    return result;
  };
}

}  // namespace halfstep::train
