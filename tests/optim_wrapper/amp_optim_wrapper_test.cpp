// AmpOptimWrapper: what MMEngine's tests of it hold, and what it does beyond that.
#include "halfstep/optim_wrapper/amp_optim_wrapper.h"

#include "halfstep/autocast/half_rehearsal.h"
#include "halfstep/core/error.h"
#include "halfstep/optim/lr_scheduler.h"
#include "halfstep/optim/sgd.h"

#include <limits>
#include <sstream>

#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include "tests/optim_wrapper/toy_model.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

namespace {
constexpr auto f16 = torch::kHalf, bf16 = torch::kBFloat16;
using Options = AmpOptimWrapperOptions;
}  // namespace

class AmpOptimWrapperTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    torch::manual_seed(0);
    model->to(device());
    optimizer = std::make_unique<torch::optim::SGD>(model->parameters(), 0.1);
    fused = std::make_unique<optim::SGD>(model->parameters(), optim::SGDOptions(0.1));
  }
  at::Tensor input(double value = 1) const {
    return torch::full({1, 1, 1, 1}, value, torch::device(device()));
  }
  at::Tensor loss_of(OptimWrapper& wrapper, double factor = 1) {
    const auto context = wrapper.optim_context(*model);
    return model->forward(input()).to(torch::kFloat).sum() * factor;
  }
  static constexpr double inf = std::numeric_limits<double>::infinity();

  ToyModel model;
  std::unique_ptr<torch::optim::SGD> optimizer;
  std::unique_ptr<optim::SGD> fused;
};
HALFSTEP_ON_EACH_DEVICE(AmpOptimWrapperTest);

TEST_P(AmpOptimWrapperTest, Init) {
  const AmpOptimWrapper plain(*optimizer);
  EXPECT_EQ(plain.device_type(), GetParam());
  EXPECT_EQ(plain.dtype(), device().is_cuda() ? f16 : bf16);
  EXPECT_EQ(plain.scaler().is_enabled(), device().is_cuda());

  const AmpOptimWrapper dynamic(*optimizer, Options().loss_scale("dynamic").dtype(f16));
  EXPECT_TRUE(dynamic.scaler().is_enabled());
  EXPECT_TRUE(dynamic.scaler().options().dynamic());
  EXPECT_EQ(dynamic.get_scale(), 65536);
  EXPECT_EQ(dynamic.dtype(), f16);

  const AmpOptimWrapper by_options(
      *optimizer, Options().dtype(f16).loss_scale(
                      GradScalerOptions(torch::kCPU).init_scale(1).growth_factor(3)));
  EXPECT_EQ(by_options.get_scale(), 1);
  EXPECT_EQ(by_options.scaler().get_growth_factor(), 3);
  EXPECT_EQ(by_options.scaler().options().device_type(), GetParam());
}

TEST_P(AmpOptimWrapperTest, RefusesWhatItCantBe) {
  const auto make = [&](const Options& options) { AmpOptimWrapper wrapper(*optimizer, options); };
  EXPECT_ERROR(make(Options().loss_scale("unknown")), UsageError, "[AmpOptimWrapper]",
               "must be \"dynamic\", a number or GradScalerOptions, but got \"unknown\"");
  EXPECT_ERROR(make(Options().loss_scale(0)), UsageError, "init_scale must be above 0");
  EXPECT_ERROR(make(Options().dtype(torch::kFloat)), UsageError,
               "dtype must be float16 or bfloat16, but got float32; for full precision use "
               "OptimWrapper");
  EXPECT_ERROR(make(Options().accumulative_counts(0)), UsageError, "accumulative_counts");
  torch::optim::SGD empty(std::vector<at::Tensor>(), 0.1);
  EXPECT_ERROR((AmpOptimWrapper(empty)), UsageError, "the optimizer must have parameters");
}

// MMEngine takes no whole number.
TEST_P(AmpOptimWrapperTest, ANumberIsAStaticScale) {
  for (const auto& options : {Options().loss_scale(512), Options().loss_scale(512.)}) {
    AmpOptimWrapper wrapper(*optimizer, Options(options).dtype(f16));
    EXPECT_EQ(wrapper.get_scale(), 512);
    EXPECT_TRUE(wrapper.update_params(loss_of(wrapper))->stepped());
    EXPECT_FALSE(wrapper.update_params(loss_of(wrapper, inf))->stepped());
    EXPECT_EQ(wrapper.get_scale(), 512);
  }
}

TEST_P(AmpOptimWrapperTest, Bfloat16IsScaledWhereOneAsksForANumber) {
  EXPECT_FALSE(AmpOptimWrapper(*optimizer, Options().dtype(bf16)).scaler().is_enabled());
  EXPECT_EQ(AmpOptimWrapper(*optimizer, Options().dtype(bf16)).get_scale(), 1);
  EXPECT_EQ(AmpOptimWrapper(*optimizer, Options().dtype(bf16).loss_scale(8)).get_scale(), 8);
  const auto scaler = GradScalerOptions(GetParam()).init_scale(16);
  AmpOptimWrapper wrapper(*optimizer, Options().dtype(bf16).loss_scale(scaler));
  wrapper.backward(loss_of(wrapper));
  EXPECT_EQ(model->conv2->bias.grad().item<float>(), 16);
}

TEST_P(AmpOptimWrapperTest, BackwardScalesAndStepUnscales) {
  for (torch::optim::Optimizer* each : {static_cast<torch::optim::Optimizer*>(optimizer.get()),
                                        static_cast<torch::optim::Optimizer*>(fused.get())}) {
    AmpOptimWrapper wrapper(*each, Options().dtype(f16).loss_scale(256));
    const auto before = model->conv2->bias.detach().clone();
    EXPECT_FALSE(wrapper.last_result());
    wrapper.backward(loss_of(wrapper));
    EXPECT_EQ(model->conv2->bias.grad().item<float>(), 256);
    EXPECT_EQ(wrapper.inner_count(), 1);
    EXPECT_TRUE(wrapper.step().stepped());
    ASSERT_TRUE(wrapper.last_result());
    EXPECT_TRUE(wrapper.last_result()->stepped());
    expect_close(model->conv2->bias, before - 0.1, tolerance(torch::kFloat, "update"));
    wrapper.zero_grad();
  }
}

TEST_P(AmpOptimWrapperTest, OptimContextIsAutocast) {
  const Autocast outside(AutocastOptions(GetParam()).enabled(false));
  for (const auto dtype : {f16, bf16}) {
    AmpOptimWrapper wrapper(*optimizer, Options().dtype(dtype));
    {
      const auto context = wrapper.optim_context(*model);
      EXPECT_EQ(model->forward(input()).scalar_type(), dtype);
    }
    EXPECT_EQ(model->forward(input()).scalar_type(), torch::kFloat);
  }
  OptimWrapper full(*optimizer);
  const auto context = full.optim_context(*model);
  EXPECT_EQ(model->forward(input()).scalar_type(), torch::kFloat);
}

TEST_P(AmpOptimWrapperTest, OptimContextKeepsToThePolicy) {
  OpPolicy policy = OpPolicy::preset("torch", GetParam());
  policy.set("conv2d", CastRule::float32);
  AmpOptimWrapper wrapper(*optimizer, Options().policy(policy));
  const auto context = wrapper.optim_context(*model);
  EXPECT_EQ(model->forward(input()).scalar_type(), torch::kFloat);
}

TEST_P(AmpOptimWrapperTest, SkipsAreToldAndLowerTheScale) {
  for (torch::optim::Optimizer* each : {static_cast<torch::optim::Optimizer*>(optimizer.get()),
                                        static_cast<torch::optim::Optimizer*>(fused.get())}) {
    AmpOptimWrapper wrapper(*each, Options().dtype(f16).accumulative_counts(2));
    optim::LRScheduler scheduler(*each, optim::step_lr(1, 0.5));
    const auto before = copies(*model);
    const auto update = [&](double factor) {
      if (const auto result = wrapper.update_params(loss_of(wrapper, factor)))
        scheduler.step(*result);
    };
    // One part of a batch is enough.
    update(inf);
    update(1);
    ASSERT_TRUE(wrapper.last_result());
    EXPECT_FALSE(wrapper.last_result()->stepped());
    for (size_t i = 0; i < before.size(); ++i) expect_same_bits(model->parameters()[i], before[i]);
    EXPECT_EQ(scheduler.steps(), 0);
    EXPECT_EQ(wrapper.get_scale(), 32768);
    EXPECT_EQ(wrapper.skipped_steps(), 1);
    EXPECT_FALSE(model->conv2->bias.grad().defined());
    update(1);
    update(1);
    EXPECT_TRUE(wrapper.last_result()->stepped());
    EXPECT_EQ(scheduler.steps(), 1);
    EXPECT_EQ(wrapper.skipped_steps(), 1);
    EXPECT_FALSE(torch::equal(model->parameters()[3], before[3]));
  }
}

TEST_P(AmpOptimWrapperTest, TheNormOfAnOverflowIsNoNumber) {
  for (torch::optim::Optimizer* each : {static_cast<torch::optim::Optimizer*>(optimizer.get()),
                                        static_cast<torch::optim::Optimizer*>(fused.get())}) {
    AmpOptimWrapper wrapper(*each, Options().dtype(f16).clip_grad(ClipGrad::norm(1)));
    const auto before = copies(*model);
    EXPECT_FALSE(wrapper.update_params(loss_of(wrapper, inf))->stepped());
    EXPECT_FALSE(std::isfinite(wrapper.grad_norm().item<float>()));
    for (size_t i = 0; i < before.size(); ++i) expect_same_bits(model->parameters()[i], before[i]);
    EXPECT_TRUE(wrapper.update_params(loss_of(wrapper))->stepped());
    EXPECT_GT(wrapper.grad_norm().item<float>(), 0);
  }
}

// Autocast keeps the cast of a weight for its region; one made without gradients must not be used
// for a forward with them.
TEST_P(AmpOptimWrapperTest, AForwardWithoutGradientsDoesNotTakeThemFromTheNext) {
  const auto train = [&](bool look_first, auto&& make_optimizer) {
    torch::manual_seed(3);
    ToyModel fresh;
    fresh->to(device());
    auto own = make_optimizer(fresh->parameters());
    AmpOptimWrapper wrapper(own, Options().dtype(bf16));
    for (int step = 0; step < 2; ++step) {
      at::Tensor loss;
      {
        const auto context = wrapper.optim_context(*fresh);
        if (look_first) {
          const torch::NoGradGuard no_grad;
          fresh->forward(input(step + 1));
        }
        loss = fresh->forward(input(step + 1)).to(torch::kFloat).sum();
      }
      wrapper.backward(loss);
      for (const auto& parameter : fresh->parameters()) {
        EXPECT_TRUE(parameter.grad().defined());
        EXPECT_NE(parameter.grad().item<float>(), 0);
      }
      wrapper.step();
      wrapper.zero_grad();
    }
    return copies(*fresh);
  };
  const auto stock = [](auto parameters) { return torch::optim::SGD(parameters, 0.1); };
  const auto shadows = [](auto parameters) {
    return optim::SGD(parameters, optim::SGDOptions(0.1).shadow_weights(bf16));
  };
  const auto expected = train(false, stock);
  const auto looked = train(true, stock);
  const auto shadowed = train(true, shadows);
  for (size_t i = 0; i < expected.size(); ++i) {
    expect_same_bits(looked[i], expected[i]);
    expect_close(shadowed[i], expected[i], tolerance(torch::kFloat, "step"));
  }
}

TEST_P(AmpOptimWrapperTest, StateHoldsTheScale) {
  AmpOptimWrapper wrapper(*optimizer, Options().dtype(f16));
  wrapper.update_params(loss_of(wrapper, inf));
  wrapper.update_params(loss_of(wrapper));
  std::stringstream file;
  torch::save(wrapper, file);

  torch::optim::SGD other(model->parameters(), 0.7);
  AmpOptimWrapper loaded(other, Options().dtype(f16));
  torch::load(loaded, file);
  EXPECT_EQ(loaded.scaler().state(), wrapper.scaler().state());
  EXPECT_EQ(loaded.get_scale(), 32768);
  EXPECT_EQ(loaded.scaler().growth_tracker(), 1);
  EXPECT_EQ(loaded.get_lr()["lr"], std::vector<double>{0.1});
  EXPECT_EQ(loaded.inner_count(), 2);

  // Without a scale, and by a wrapper that knows of none.
  for (const bool amp : {false, true}) {
    file.clear();
    file.seekg(0);
    std::unique_ptr<OptimWrapper> unscaled;
    if (amp)
      unscaled = std::make_unique<AmpOptimWrapper>(other, Options().dtype(bf16));
    else
      unscaled = std::make_unique<OptimWrapper>(other);
    torch::load(*unscaled, file);
    EXPECT_EQ(unscaled->inner_count(), 2);
  }
  // A scale that nobody saved stays.
  std::stringstream plain;
  torch::save(OptimWrapper(other), plain);
  torch::load(loaded, plain);
  EXPECT_EQ(loaded.get_scale(), 32768);
}

TEST_P(AmpOptimWrapperTest, FallsBackToWiderPrecision) {
  AmpOptimWrapper wrapper(*optimizer, Options().dtype(f16));
  const auto output_dtype = [&] {
    const auto context = wrapper.optim_context(*model);
    return model->forward(input()).scalar_type();
  };
  wrapper.update_params(loss_of(wrapper, inf));
  wrapper.backward(loss_of(wrapper));
  wrapper.fall_back();
  EXPECT_FALSE(model->conv2->bias.grad().defined());
  EXPECT_EQ(output_dtype(), bf16);
  EXPECT_EQ(wrapper.get_scale(), 1);
  EXPECT_EQ(wrapper.skipped_steps(), 1);
  EXPECT_TRUE(wrapper.update_params(loss_of(wrapper))->stepped());

  // What is saved now goes on in that precision.
  std::stringstream file;
  torch::save(wrapper, file);
  torch::optim::SGD other(model->parameters(), 0.1);
  for (const auto dtype : {f16, bf16}) {
    file.clear();
    file.seekg(0);
    AmpOptimWrapper loaded(other, Options().dtype(dtype));
    torch::load(loaded, file);
    EXPECT_EQ(loaded.dtype(), bf16);
    EXPECT_FALSE(loaded.scaler().is_enabled());
  }
  wrapper.fall_back();
  EXPECT_EQ(output_dtype(), torch::kFloat);
  EXPECT_EQ(wrapper.dtype(), torch::kFloat);
  EXPECT_TRUE(wrapper.update_params(loss_of(wrapper))->stepped());
}

TEST_P(AmpOptimWrapperTest, PrintsItself) {
  std::ostringstream text;
  text << AmpOptimWrapper(*optimizer, Options().dtype(f16))
       << AmpOptimWrapper(*optimizer, Options().dtype(bf16))
       << AmpOptimWrapper(*optimizer, Options().dtype(f16).loss_scale(512));
  for (const char* part :
       {"Type: AmpOptimWrapper\naccumulative_counts: 1\noptimizer: torch::optim::SGD\n",
        "dtype: float16\nloss scale: dynamic, from 65536\n", "dtype: bfloat16\nloss scale: off\n",
        "loss scale: static 512\n"})
    EXPECT_THAT(text.str(), ::testing::HasSubstr(part));
}

TEST(AmpOptimWrapperOnTheCpu, RehearsesFloat16) {
  ToyModel model;
  torch::optim::SGD optimizer(model->parameters(), 0.1);
  const auto uses_of = [&](c10::ScalarType dtype) {
    AmpOptimWrapper wrapper(optimizer, Options().dtype(dtype));
    at::Tensor loss;
    const auto start = HalfRehearsal::uses();
    {
      const auto context = wrapper.optim_context(*model);
      loss = model->forward(torch::ones({1, 1, 1, 1})).to(torch::kFloat).sum();
    }
    EXPECT_FALSE(HalfRehearsal::is_enabled());
    const auto forward = HalfRehearsal::uses() - start;
    wrapper.update_params(loss);
    return std::pair(forward, HalfRehearsal::uses() - start);
  };
  const auto [forward, all] = uses_of(f16);
  EXPECT_EQ(forward, 2);
  EXPECT_EQ(all, 4);
  EXPECT_EQ(uses_of(bf16).second, 0);
}

// The flag of a fused optimizer's step stays on its device.
TEST(AmpOptimWrapperOnCuda, DoesNotSyncWithAFusedOptimizer) {
  HALFSTEP_REQUIRE_CUDA(1);
  ToyModel model;
  model->to(torch::kCUDA);
  optim::SGD fused(model->parameters(), optim::SGDOptions(0.1));
  AmpOptimWrapper wrapper(fused, Options().clip_grad(ClipGrad::norm(1)));
  const auto result = wrapper.update_params(
      model->forward(torch::ones({1, 1, 1, 1}, torch::device(torch::kCUDA))).sum());
  ASSERT_TRUE(result);
  EXPECT_FALSE(result->is_known());
  EXPECT_TRUE(result->stepped());
  EXPECT_TRUE(wrapper.grad_norm().is_cuda());
}

}  // namespace halfstep::testing
