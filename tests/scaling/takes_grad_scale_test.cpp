// Optimizers that divide and skip by themselves; with Python's test_grad_scaler_pass_itself,
// test_grad_scaler_with_preset_grad_scale and test_grad_scaling_autocast_fused_optimizers.
#include "halfstep/scaling/takes_grad_scale.h"

#include "halfstep/autocast/autocast.h"
#include "halfstep/core/error.h"
#include "halfstep/scaling/grad_scaler.h"

#include <limits>

#include <ATen/record_function.h>
#include <torch/optim.h>
#include <torch/types.h>

#include "tests/scaling/fused_for_tests.h"
#include "tests/scaling/scaling_case.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"

namespace halfstep::testing {

class TakesScale : public DeviceTest {};
HALFSTEP_ON_EACH_DEVICE(TakesScale);

namespace {

/// Records what it was given instead of stepping.
struct Witness : torch::optim::SGD, TakesGradScale {
  using SGD::SGD;
  at::Tensor step(LossClosure) override {
    seen_scale = grad_scale;
    seen_found_inf = found_inf;
    if (fail) throw std::runtime_error("no luck");
    return {};
  }
  std::optional<at::Tensor> seen_scale, seen_found_inf;
  bool fail = false;
};

/// Counts reads of a tensor's value on the host: on a GPU each one is a sync.
class HostReads {
 public:
  HostReads() {
    count_ = 0;
    handle_ = at::addThreadLocalCallback(
        at::RecordFunctionCallback([](const at::RecordFunction& function)
                                       -> std::unique_ptr<at::ObserverContext> {
          if (std::string_view(function.name()) == "aten::_local_scalar_dense") ++count_;
          return nullptr;
        }).scopes({at::RecordScope::FUNCTION}));
  }
  ~HostReads() { at::removeCallback(handle_); }
  HostReads(const HostReads&) = delete;
  HostReads& operator=(const HostReads&) = delete;
  static int count() { return count_; }

 private:
  static inline thread_local int count_ = 0;
  at::CallbackHandle handle_{};
};

at::Tensor parameter_on(c10::Device device) {
  return torch::ones({2}, torch::device(device).requires_grad(true));
}

}  // namespace

TEST_P(TakesScale, GradScalerPassItself) {
  auto parameter = parameter_on(device());
  Witness witness({parameter}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(2));
  scaler.scale(parameter.sum()).backward();
  scaler.step(witness);
  ASSERT_TRUE(witness.seen_scale && witness.seen_found_inf);
  EXPECT_EQ(witness.seen_scale->item<float>(), 2);
  EXPECT_EQ(witness.seen_found_inf->item<float>(), 0);
  EXPECT_EQ(witness.seen_scale->device(), parameter.device());
  EXPECT_FALSE(witness.grad_scale || witness.found_inf) << "must be empty after the step";
  EXPECT_TRUE(parameter.grad().eq(2).all().item<bool>()) << "gradients must stay scaled";
}

TEST_P(TakesScale, GradScalerWithPresetGradScale) {
  auto parameter = parameter_on(device());
  Witness witness({parameter}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(2));
  for (const bool unscaled : {false, true}) {
    scaler.scale(parameter.sum()).backward();
    if (unscaled) scaler.unscale_(witness);
    witness.grad_scale = torch::full({}, 3.0F);  // from the host; comes to the scale's device
    scaler.step(witness);
    ASSERT_TRUE(witness.seen_scale);
    EXPECT_EQ(witness.seen_scale->item<float>(), unscaled ? 3 : 6);
    EXPECT_EQ(witness.seen_scale->device(), parameter.device());
    scaler.update();
    scaler.update(2.0 * 1);
    EXPECT_FALSE(witness.grad_scale) << "a preset holds for one step";
  }
}

TEST_P(TakesScale, APresetHoldsForOneStepOfADisabledScaler) {
  auto parameter = parameter_on(device());
  Witness witness({parameter}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(GradScalerOptions(GetParam()).enabled(false));
  witness.grad_scale = torch::full({}, 3.0F);
  scaler.step(witness);
  ASSERT_TRUE(witness.seen_scale);
  EXPECT_EQ(witness.seen_scale->item<float>(), 3);
  scaler.step(witness);
  EXPECT_FALSE(witness.seen_scale);
}

// A device that is not the scale's, so that the move shows without a GPU too.
TEST(TakesScaleOnCpu, APresetFromAnotherDeviceIsMoved) {
  auto parameter = parameter_on(c10::kCPU);
  Witness witness({parameter}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(GradScalerOptions(c10::kCPU).init_scale(2));
  scaler.scale(parameter.sum()).backward();
  scaler.unscale_(witness);
  witness.grad_scale = torch::full({}, 3.0F, torch::device(c10::kMeta));
  // Meta tensors have no values to copy: that it is tried is what can be seen.
  EXPECT_THROW(scaler.step(witness), c10::Error);
  EXPECT_FALSE(witness.seen_scale);
}

TEST_P(TakesScale, AfterUnscaleThereIsNothingToDivideBy) {
  auto parameter = parameter_on(device());
  Witness witness({parameter}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(2));
  scaler.scale(parameter.sum()).backward();
  scaler.unscale_(witness);
  scaler.step(witness);
  EXPECT_FALSE(witness.seen_scale);
  EXPECT_TRUE(witness.seen_found_inf);
  EXPECT_TRUE(parameter.grad().eq(1).all().item<bool>());
}

TEST_P(TakesScale, BothAreEmptyAfterAStepThatThrows) {
  auto parameter = parameter_on(device());
  Witness witness({parameter}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(2));
  scaler.scale(parameter.sum()).backward();
  witness.fail = true;
  EXPECT_ERROR(scaler.step(witness), std::runtime_error, "no luck");
  EXPECT_FALSE(witness.grad_scale || witness.found_inf);
  witness.fail = false;
  EXPECT_TRUE(scaler.step(witness).stepped());
  EXPECT_EQ(witness.seen_scale->item<float>(), 2);
  scaler.update();
}

TEST_P(TakesScale, RefusedCallKeepsThePreset) {
  auto parameter = parameter_on(device());
  Witness witness({parameter}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(2));
  scaler.scale(torch::ones({}, torch::device(device())));
  witness.grad_scale = torch::full({}, 3.0F);
  EXPECT_ERROR(scaler.step(witness), UsageError, "must have a gradient");
  EXPECT_TRUE(witness.grad_scale);
}

TEST_P(TakesScale, StepDoesNotReadTheDevice) {
  auto parameter = parameter_on(device());
  torch::optim::SGD ordinary({parameter}, torch::optim::SGDOptions(0.1));
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(2));
  scaler.scale(parameter.sum()).backward();
  {
    // GPU kernels take the flag on the device; the CPU ones read memory that is here anyway.
    const HostReads reads;
    Witness witness({parameter}, torch::optim::SGDOptions(0.1));
    const auto result = scaler.step(witness);
    scaler.update();
    EXPECT_EQ(HostReads::count(), 0);
    EXPECT_FALSE(result.is_known());
    EXPECT_TRUE(result.stepped());
    EXPECT_EQ(HostReads::count(), 1);
    EXPECT_TRUE(result.is_known() && result.stepped());
    EXPECT_EQ(HostReads::count(), 1);
  }
  const HostReads reads;
  const auto result = scaler.step(ordinary);
  EXPECT_EQ(HostReads::count(), 1) << "one read per step, not one per parameter";
  EXPECT_TRUE(result.is_known() && result.stepped());
  EXPECT_EQ(HostReads::count(), 1);
}

TEST_P(TakesScale, ResultOutlivesTheNextIteration) {
  auto parameter = parameter_on(device());
  FusedForTests fused({parameter}, FusedForTests::Kind::sgd, 0.1);
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(2));
  std::vector<StepResult> results;
  for (int i = 0; i < 4; ++i) {
    fused.zero_grad();
    scaler.scale(parameter.sum()).backward();
    if (i == 2) parameter.mutable_grad()[1] = std::numeric_limits<float>::quiet_NaN();
    results.push_back(scaler.step(fused));
    scaler.update();
  }
  for (int i = 0; i < 4; ++i) EXPECT_EQ(results[i].stepped(), i != 2);
}

TEST_P(TakesScale, Float16GradientsAreChecked) {
  auto parameter =
      torch::ones({2}, torch::device(device()).dtype(torch::kHalf).requires_grad(true));
  FusedForTests fused({parameter}, FusedForTests::Kind::sgd, 0.5);
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(8));
  for (const bool overflow : {false, true}) {
    fused.zero_grad();
    scaler.scale(parameter.sum()).backward();
    if (overflow) parameter.mutable_grad()[1] = std::numeric_limits<float>::infinity();
    EXPECT_EQ(scaler.step(fused).stepped(), !overflow);
    EXPECT_TRUE(parameter.eq(0.5).all().item<bool>()) << parameter;
    scaler.update();
  }
  EXPECT_EQ(scaler.get_scale(), 4);
}

// Fused with the scale inside equals stock with the gradients unscaled before, over steps with
// overflows, with and without a separate unscale_.
TEST_P(TakesScale, GradScalingAutocastFusedOptimizers) {
  using Kind = FusedForTests::Kind;
  for (const auto kind : {Kind::adam, Kind::adamw, Kind::sgd}) {
    for (const bool separate : {false, true}) {
      SCOPED_TRACE(c10::str("kind ", static_cast<int>(kind), ", unscale_ ", separate));
      const auto batches = make_batches(device());
      auto stock_model = make_model(device());
      auto fused_model = twin_of(stock_model, device());
      const auto parameters = stock_model->parameters();
      std::unique_ptr<torch::optim::Optimizer> stock;
      const double lr = 0.125;
      if (kind == Kind::adam)
        stock = std::make_unique<torch::optim::Adam>(parameters, torch::optim::AdamOptions(lr));
      else if (kind == Kind::adamw)
        stock = std::make_unique<torch::optim::AdamW>(
            parameters, torch::optim::AdamWOptions(lr).weight_decay(0));
      else
        stock = std::make_unique<torch::optim::SGD>(parameters, torch::optim::SGDOptions(lr));
      FusedForTests fused(fused_model->parameters(), kind, lr);
      GradScaler stock_scaler(GradScalerOptions(GetParam()).init_scale(128).growth_interval(1));
      GradScaler fused_scaler(GradScalerOptions(GetParam()).init_scale(128).growth_interval(1));
      const auto iterate = [&](torch::nn::Sequential& model, torch::optim::Optimizer& optimizer,
                               GradScaler& scaler, int i) {
        optimizer.zero_grad();
        const auto& [input, target] = batches[i % 4];
        at::Tensor loss;
        {
          const Autocast autocast(AutocastOptions(GetParam()).dtype(torch::kHalf));
          const auto output = model->forward(input);
          ASSERT_EQ(output.scalar_type(), torch::kHalf);
          loss = torch::mse_loss(output.to(torch::kFloat), target);
        }
        scaler.scale(loss).backward();
        if (i % 3 == 1) second_weight(model).mutable_grad()[7][7] = NAN;
        if (separate) scaler.unscale_(optimizer);
        const auto result = scaler.step(optimizer);
        scaler.update();
        EXPECT_EQ(result.stepped(), i % 3 != 1);
      };
      for (int i = 0; i < 9; ++i) {
        iterate(stock_model, *stock, stock_scaler, i);
        iterate(fused_model, fused, fused_scaler, i);
        ASSERT_EQ(stock_scaler.state(), fused_scaler.state());
        const auto got = fused_model->parameters();
        for (std::size_t p = 0; p < got.size(); ++p)
          expect_close(got[p], parameters[p], tolerance(torch::kFloat, "step"));
      }
      EXPECT_EQ(fused.steps_of(fused_model->parameters()[0]), 6) << "skipped steps must not count";
    }
  }
}

}  // namespace halfstep::testing
