// Python's test_grad_scaling_autocast (test_torch.py): float16 autocast with the scaler, each stock
// and each fused optimizer, also with the scaler saved and loaded after every update.
#include "halfstep/autocast/autocast.h"

#include <limits>
#include <sstream>

#include <torch/optim.h>
#include <torch/serialize.h>

#include "tests/scaling/fused_for_tests.h"
#include "tests/scaling/scaling_case.h"
#include "tests/support/devices.h"

namespace halfstep::testing {

class ScalerUnderAutocast : public DeviceTest {
 protected:
  void check(const MakeOptimizer& make_optimizer, bool control_under_autocast);
};
HALFSTEP_ON_EACH_DEVICE(ScalerUnderAutocast);

namespace {

void save_and_load(GradScaler& scaler) {
  if (!scaler.is_enabled()) return;
  std::stringstream file;
  torch::save(scaler, file);
  GradScaler fresh(GradScalerOptions(c10::kCPU).init_scale(3));
  torch::load(fresh, file);
  EXPECT_EQ(fresh.state(), scaler.state());
  scaler = std::move(fresh);  // starts lazily again, on the device of the next loss
}

}  // namespace

void ScalerUnderAutocast::check(const MakeOptimizer& make_optimizer, bool control_under_autocast) {
  for (const bool reload : {false, true}) {
    SCOPED_TRACE(reload ? "scaler saved and loaded after each update" : "scaler kept");
    const auto run = [&](TrainingRun& r) {
      for (int i = 0; i < static_cast<int>(r.batches.size()); ++i) {
        r.optimizer.zero_grad();
        at::Tensor loss;
        {
          const bool cast = r.scaling || control_under_autocast;
          const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kHalf).enabled(cast));
          const auto output = r.model->forward(r.batches[i].first);
          ASSERT_EQ(output.scalar_type(), cast ? torch::kHalf : torch::kFloat);
          loss = (output.to(torch::kFloat) - r.batches[i].second).pow(2).mean();
        }
        if (r.scaling) {
          r.scaler.scale(loss).backward();
          if (r.overflows_at(i))
            second_weight(r.model).mutable_grad().fill_(std::numeric_limits<float>::infinity());
          EXPECT_EQ(r.scaler.step(r.optimizer).stepped(), !r.overflows_at(i));
          r.scaler.update();
          if (reload) save_and_load(r.scaler);
        } else {
          loss.backward();
          if (!r.overflows_at(i)) r.optimizer.step();
        }
      }
    };
    check_scaling_case({.device = device(),
                        .run = run,
                        .grown = 3,
                        .backed_off = 1,
                        .same_bits = false,
                        .tolerance = tolerance(torch::kHalf, "elementwise"),
                        .make_optimizer = make_optimizer});
  }
}

namespace {

template <class Optimizer, class Options>
MakeOptimizer stock(double lr) {
  return [lr](std::vector<at::Tensor> parameters) {
    return std::make_unique<Optimizer>(std::move(parameters), Options(lr));
  };
}

MakeOptimizer fused(FusedForTests::Kind kind, double lr) {
  return [kind, lr](std::vector<at::Tensor> parameters) {
    return std::make_unique<FusedForTests>(std::move(parameters), kind, lr);
  };
}

}  // namespace

// SGD is compared with plain float32. Adam divides by the gradients' size, so one rounding of a
// tiny gradient moves a parameter by the learning rate (Python expects its comparison to fail): the
// control of Adam runs under autocast too, without the scaler.

TEST_P(ScalerUnderAutocast, GradScalingAutocastSGD) {
  check(stock<torch::optim::SGD, torch::optim::SGDOptions>(1.0), false);
}

TEST_P(ScalerUnderAutocast, GradScalingAutocastAdam) {
  check(stock<torch::optim::Adam, torch::optim::AdamOptions>(0.1), true);
}

TEST_P(ScalerUnderAutocast, GradScalingAutocastAdamW) {
  check(stock<torch::optim::AdamW, torch::optim::AdamWOptions>(0.1), true);
}

TEST_P(ScalerUnderAutocast, GradScalingAutocastFusedSGD) {
  check(fused(FusedForTests::Kind::sgd, 1.0), false);
}

TEST_P(ScalerUnderAutocast, GradScalingAutocastFusedAdam) {
  check(fused(FusedForTests::Kind::adam, 0.1), true);
}

TEST_P(ScalerUnderAutocast, GradScalingAutocastFusedAdamW) {
  check(fused(FusedForTests::Kind::adamw, 0.1), true);
}

}  // namespace halfstep::testing
