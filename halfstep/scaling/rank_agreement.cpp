#include "halfstep/scaling/rank_agreement.h"

#include "halfstep/core/error.h"

#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace halfstep::detail {

RankAgreement::RankAgreement(const c10::intrusive_ptr<c10d::ProcessGroup>& group) : group_(group) {
  HALFSTEP_CHECK_USAGE(
      group_ != nullptr, "GradScalerOptions::process_group",
      "the process group must not be empty, but it is; leave it out where there is "
      "one rank");
}

RankAgreement::~RankAgreement() = default;

at::Tensor RankAgreement::largest(const at::Tensor& found_inf, const at::Tensor& scale,
                                  bool check_scale) const {
  const c10::NoGradGuard no_grad;
  // The scale and its negative, so that the maximum shows the largest and the smallest.
  std::vector<at::Tensor> numbers{at::stack({found_inf, scale, -scale})};
  c10d::AllreduceOptions options;
  options.reduceOp = c10d::ReduceOp::MAX;
  group_->allreduce(numbers, options)->wait();
  if (check_scale) {
    const auto here = numbers[0].cpu();
    const auto* largest = here.const_data_ptr<float>();
    HALFSTEP_CHECK_USAGE(largest[1] == -largest[2], "GradScaler",
                         "all ranks must start with the same scale, but got ", scale.item<float>(),
                         " on this rank and from ", -largest[2], " to ", largest[1],
                         " on all; give every rank the same options, or the same state to load");
  }
  return numbers[0].select(0, 0);
}

}  // namespace halfstep::detail
