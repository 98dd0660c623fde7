#pragma once
#include "halfstep/autocast/autocast.h"

#include <torch/types.h>
#include <torch/utils.h>

#include "tests/support/devices.h"

namespace halfstep::testing {

/// Regions with a policy on each device, in bfloat16, and tensors of both widths to call ops with.
class PolicyTest : public DeviceTest {
 protected:
  static constexpr auto kLow = torch::kBFloat16;

  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    torch::manual_seed(1);
    x = torch::randn({4, 6}, device());
    low = x.to(kLow);
  }
  AutocastOptions region() const { return AutocastOptions(GetParam()).dtype(kLow); }
  AutocastOptions region(const OpPolicy& policy) const { return region().policy(policy); }
  OpPolicy torch_list() const { return OpPolicy::torch(GetParam()); }

  torch::Tensor x;
  torch::Tensor low;
};

}  // namespace halfstep::testing
