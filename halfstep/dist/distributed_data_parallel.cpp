#include "halfstep/dist/distributed_data_parallel.h"

#include "halfstep/core/error.h"

#include <c10/core/GradMode.h>

namespace halfstep::dist {

DistributedDataParallelBase::DistributedDataParallelBase(
    const std::shared_ptr<torch::nn::Module>& module, ProcessGroup& group,
    const DistributedDataParallelOptions& options)
    : torch::nn::Module("DistributedDataParallel") {
  HALFSTEP_CHECK_USAGE(module != nullptr, "DistributedDataParallel",
                       "the module must be one, but is null; make it first");
  register_module("module", module);
  buffers_ = module->named_buffers();
  check_same_form(group, buffers_, "the buffers");
  reducer_ = std::make_unique<GradientReducer>(module->named_parameters(), group, options);
  for (const auto& tensors : {module->named_parameters(), buffers_}) {
    broadcast_all_(group, tensors);
    check_same_values(group, tensors, "what rank 0 gave to all");
  }
}

void DistributedDataParallelBase::sync_buffers() {
  broadcast_all_(group(), buffers_);
}

bool DistributedDataParallelBase::begin_forward() {
  if (!c10::GradMode::is_enabled()) return false;
  const bool exchanges = requires_sync();
  // As Python: between forwards of one accumulation ranks keep their own, too.
  if (buffers_may_differ_ && options().broadcast_buffers()) sync_buffers();
  buffers_may_differ_ = exchanges;
  if (exchanges) reducer_->prepare_for_forward();
  return exchanges;
}

void DistributedDataParallelBase::end_forward(const std::vector<at::Tensor>& outputs) {
  reducer_->prepare_for_backward(outputs);
}

}  // namespace halfstep::dist
