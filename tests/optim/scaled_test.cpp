// Fused optimizers under a GradScaler; with Python's test_functional_fused_optimizer_with_foundinf
// and test_grad_scaling_autocast_fused_optimizers.
#include "halfstep/autocast/autocast.h"
#include "halfstep/optim.h"
#include "halfstep/scaling/grad_scaler.h"

#include <limits>

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/optim/make_optimizer.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using optim::Kernel;

class FusedScaled : public DeviceTest {
 protected:
  at::TensorOptions here() const { return torch::device(device()); }
};
HALFSTEP_ON_EACH_DEVICE(FusedScaled);

namespace {
const float kInf = std::numeric_limits<float>::infinity();
}

TEST_P(FusedScaled, FunctionalFusedOptimizerWithFoundinf) {
  for (const auto& name : kFusedClasses) {
    SCOPED_TRACE(name);
    for (const auto& [flag, kernel] : {std::pair(1.0F, Kernel::aten),
                                       {1.0F, Kernel::automatic},
                                       {2.0F, Kernel::aten},
                                       {2.0F, Kernel::automatic}}) {
      // A flag of 2: those of two devices, added up.
      const auto p = torch::randn({40}, here()).requires_grad_();
      const auto optimizer = make_fused(name, {p}, false, kernel);
      auto& fused = dynamic_cast<optim::FusedOptimizer&>(*optimizer);
      p.mutable_grad() = torch::ones_like(p);
      optimizer->step();
      auto& state =
          static_cast<optim::FusedState&>(*optimizer->state().at(p.unsafeGetTensorImpl()));
      const auto parameter = p.detach().clone();
      std::vector<at::Tensor> buffers;
      for (const auto& buffer : state.buffers)
        if (buffer.defined()) buffers.push_back(buffer.clone());
      const auto steps = state.step.defined() ? state.step.item<float>() : 0;

      p.mutable_grad()[3] = kInf;
      fused.grad_scale = torch::full({}, 4.0F, here());
      fused.found_inf = torch::full({}, flag, here());
      for (int i = 0; i < 3; ++i) optimizer->step();
      expect_same_bits(p, parameter);
      for (size_t i = 0; i < buffers.size(); ++i) expect_same_bits(state.buffers[i], buffers[i]);
      if (state.step.defined()) {
        EXPECT_EQ(state.step.item<float>(), steps);
      }
      EXPECT_EQ(p.grad()[0].item<float>(), 1) << "gradients stay as they are";

      p.mutable_grad().fill_(4);
      fused.found_inf = torch::zeros({}, here());
      optimizer->step();
      EXPECT_FALSE(p.equal(parameter));
      const bool own = kernel == Kernel::automatic && device().is_cpu();
      EXPECT_EQ(p.grad()[0].item<float>(), own ? 4 : 1)
          << "ATen's kernels leave gradients unscaled, our own leave them alone";
    }
  }
}

TEST_P(FusedScaled, ASkippedFirstStepLeavesNoTrace) {
  for (const auto& name : kFusedClasses) {
    for (const double dampening : {0.0, 0.5}) {
      SCOPED_TRACE(c10::str(name, " ", dampening));
      const auto make = [&](const at::Tensor& p) -> OptimizerPtr {
        if (name != "SGD") return make_fused(name, {p});
        return std::make_unique<optim::SGD>(
            std::vector{p}, optim::SGDOptions(0.1).momentum(0.9).dampening(dampening));
      };
      const auto late = torch::randn({40}, here()), fresh = late.clone();
      const auto late_optimizer = make(late), fresh_optimizer = make(fresh);
      auto& fused = dynamic_cast<optim::FusedOptimizer&>(*late_optimizer);
      late.mutable_grad() = torch::full_like(late, kInf);
      fused.found_inf = torch::ones({}, here());
      late_optimizer->step();
      expect_same_bits(late, fresh);
      fused.found_inf = torch::zeros({}, here());
      for (int i = 0; i < 2; ++i) {
        late.mutable_grad() = torch::randn({40}, here());
        fresh.mutable_grad() = late.grad().clone();
        late_optimizer->step();
        fresh_optimizer->step();
      }
      expect_same_bits(late, fresh);
    }
  }
}

// Fused with the scale inside equals stock with the gradients unscaled before, over steps with
// overflows, with and without a separate unscale_.
TEST_P(FusedScaled, GradScalingAutocastFusedOptimizers) {
  for (const auto& name : kFusedClasses) {
    for (const bool separate : {false, true}) {
      SCOPED_TRACE(c10::str(name, ", unscale_ ", separate));
      torch::manual_seed(0);
      const auto make_net = [&] {
        torch::nn::Sequential net(torch::nn::Linear(8, 8), torch::nn::Linear(8, 8));
        net->to(device());
        return net;
      };
      auto stock_net = make_net(), fused_net = make_net();
      {
        const torch::NoGradGuard off;
        for (size_t i = 0; i < 4; ++i) fused_net->parameters()[i].copy_(stock_net->parameters()[i]);
      }
      const auto stock = make_stock(name, stock_net->parameters());
      const auto fused = make_fused(name, fused_net->parameters());
      GradScaler stock_scaler(GradScalerOptions(GetParam()).init_scale(128).growth_interval(2));
      GradScaler fused_scaler(GradScalerOptions(GetParam()).init_scale(128).growth_interval(2));
      int skipped = 0;
      const auto iterate = [&](auto& net, auto& optimizer, GradScaler& scaler, int i) {
        torch::manual_seed(i);
        const auto input = torch::randn({8, 8}, here()), target = torch::randn({8, 8}, here());
        optimizer.zero_grad();
        at::Tensor loss;
        {
          const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kHalf));
          const auto output = net->forward(input);
          ASSERT_EQ(output.scalar_type(), torch::kHalf);
          loss = torch::mse_loss(output.to(torch::kFloat), target);
        }
        scaler.scale(loss).backward();
        if (i % 3 == 1) net->parameters()[2].mutable_grad()[7][7] = NAN;
        if (separate) scaler.unscale_(optimizer);
        const auto result = scaler.step(optimizer);
        scaler.update();
        EXPECT_EQ(result.stepped(), i % 3 != 1);
        skipped += result.stepped() ? 0 : 1;
      };
      for (int i = 0; i < 9; ++i) {
        iterate(stock_net, *stock, stock_scaler, i);
        iterate(fused_net, *fused, fused_scaler, i);
        ASSERT_EQ(stock_scaler.state(), fused_scaler.state());
        for (size_t p = 0; p < 4; ++p)
          expect_close(fused_net->parameters()[p], stock_net->parameters()[p],
                       {1e-4, 1e-5});  // float16 forward: an ulp of a weight may move a product
      }
      EXPECT_EQ(skipped, 6);
    }
  }
}

}  // namespace halfstep::testing
