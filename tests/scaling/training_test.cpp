// Python's training tests of GradScaler (test_torch.py, TestTorchDeviceType): each case carries the
// name of its original.

#include <torch/autograd.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim.h>

#include "tests/scaling/fused_for_tests.h"
#include "tests/scaling/scaling_case.h"
#include "tests/support/devices.h"
#include "tests/support/special_values.h"

namespace halfstep::testing {

class ScalerTraining : public DeviceTest {};
HALFSTEP_ON_EACH_DEVICE(ScalerTraining);

namespace {

void overflow(torch::nn::Sequential& model) {
  second_weight(model).mutable_grad().fill_(kInf);
}

}  // namespace

TEST_P(ScalerTraining, GradScalingClipping) {
  const auto run = [](TrainingRun& r) {
    const double max_norm = 0.2;
    for (int i = 0; i < static_cast<int>(r.batches.size()); ++i) {
      r.optimizer.zero_grad();
      const auto loss = r.loss_of(r.batches[i]);
      if (r.scaling) {
        r.scaler.scale(loss).backward();
        torch::nn::utils::clip_grad_norm_(r.model->parameters(), max_norm * r.scaler.get_scale());
        if (r.overflows_at(i)) overflow(r.model);
        r.scaler.step(r.optimizer);
        r.scaler.update();
      } else {
        loss.backward();
        const double norm = torch::nn::utils::clip_grad_norm_(r.model->parameters(), max_norm);
        EXPECT_GT(norm, max_norm) << "nothing was clipped";
        if (!r.overflows_at(i)) r.optimizer.step();
      }
    }
  };
  // Not to the bit: clipping adds 1e-6 to the norm, which is not scaled.
  check_scaling_case({.device = device(),
                      .run = run,
                      .grown = 3,
                      .backed_off = 1,
                      .same_bits = false,
                      .tolerance = tolerance(torch::kFloat, "step")});
}

TEST_P(ScalerTraining, GradScalingClippingSeparateUnscale) {
  const auto run = [](TrainingRun& r) {
    const double max_norm = 0.2;
    for (int i = 0; i < static_cast<int>(r.batches.size()); ++i) {
      r.optimizer.zero_grad();
      const auto loss = r.loss_of(r.batches[i]);
      if (r.scaling) {
        r.scaler.scale(loss).backward();
        if (r.overflows_at(i)) overflow(r.model);
        r.scaler.unscale_(r.optimizer);
        torch::nn::utils::clip_grad_norm_(r.model->parameters(), max_norm, /*norm_type=*/2.0,
                                          /*error_if_nonfinite=*/false);
        r.scaler.step(r.optimizer);
        r.scaler.update();
      } else {
        loss.backward();
        torch::nn::utils::clip_grad_norm_(r.model->parameters(), max_norm);
        if (!r.overflows_at(i)) r.optimizer.step();
      }
    }
  };
  check_scaling_case({.device = device(), .run = run, .grown = 3, .backed_off = 1});
}

TEST_P(ScalerTraining, GradScalingPenalty) {
  const auto run = [](TrainingRun& r) {
    for (int i = 0; i < static_cast<int>(r.batches.size()); ++i) {
      r.optimizer.zero_grad();
      auto loss = r.loss_of(r.batches[i]);
      const auto outputs = r.scaling ? r.scaler.scale(loss) : loss;
      auto gradients = torch::autograd::grad({outputs}, r.model->parameters(), {},
                                             /*retain_graph=*/true, /*create_graph=*/true);
      auto norm = torch::zeros({}, loss.options());
      for (auto& gradient : gradients) {
        if (r.scaling) gradient = gradient * (1.0 / r.scaler.get_scale());
        norm = norm + gradient.pow(2).sum();
      }
      loss = loss + norm.sqrt();
      if (r.scaling) {
        r.scaler.scale(loss).backward();
        if (r.overflows_at(i)) overflow(r.model);
        r.scaler.step(r.optimizer);
        r.scaler.update();
      } else {
        loss.backward();
        if (!r.overflows_at(i)) r.optimizer.step();
      }
    }
  };
  check_scaling_case({.device = device(), .run = run, .grown = 3, .backed_off = 1});
}

TEST_P(ScalerTraining, GradScalingAccumulation) {
  const auto run = [](TrainingRun& r) {
    const int accumulate = 2;
    for (int i = 0; i < static_cast<int>(r.batches.size()); ++i) {
      const auto loss = r.loss_of(r.batches[i]) / accumulate;
      (r.scaling ? r.scaler.scale(loss) : loss).backward();
      if ((i + 1) % accumulate != 0) continue;
      if (r.scaling) {
        r.scaler.step(r.optimizer);
        r.scaler.update();
      } else {
        r.optimizer.step();
      }
      r.optimizer.zero_grad();
    }
  };
  check_scaling_case({.device = device(), .run = run, .grown = 2, .backed_off = 0});
}

TEST_P(ScalerTraining, GradScalingMultiple) {
  for (const bool enabled : {true, false}) {
    const auto batches = make_batches(device());
    torch::nn::Sequential control[2] = {make_model(device()), make_model(device())};
    torch::nn::Sequential scaled[2] = {twin_of(control[0], device()),
                                       twin_of(control[1], device())};
    GradScaler scaler(
        GradScalerOptions(GetParam()).init_scale(128).growth_interval(1).enabled(enabled));
    const auto run = [&](torch::nn::Sequential* models, bool scaling) {
      const auto first = make_sgd(models[0]->parameters());
      const auto second = make_sgd(models[1]->parameters());
      for (int i = 0; i < static_cast<int>(batches.size()); ++i) {
        first->zero_grad();
        second->zero_grad();
        const auto& [input, target] = batches[i];
        const auto output0 = models[0]->forward(input), output1 = models[1]->forward(input);
        const auto loss0 = torch::mse_loss(0.3 * output0 + 0.7 * output1, target);
        const auto loss1 = torch::mse_loss(0.6 * output0 - 0.4 * output1, target);
        const bool overflows = enabled && i == kSkipBatch;
        if (!scaling) {
          loss0.backward({}, /*retain_graph=*/true);
          loss1.backward();
          first->step();
          if (!overflows) second->step();
          continue;
        }
        scaler.scale(loss0).backward({}, /*retain_graph=*/true);
        scaler.scale(loss1).backward();
        if (overflows) overflow(models[1]);
        scaler.unscale_(*first);  // separately for one of the two
        EXPECT_TRUE(scaler.step(*first).stepped());
        EXPECT_EQ(scaler.step(*second).stepped(), !overflows);
        scaler.update();
      }
    };
    run(control, false);
    run(scaled, true);
    EXPECT_EQ(scaler.get_scale(), enabled ? 128.0 * 8 * 0.5 : 1.0);
    for (int m = 0; m < 2; ++m) {
      const auto expected = control[m]->parameters(), got = scaled[m]->parameters();
      for (std::size_t i = 0; i < got.size(); ++i) expect_same_bits(got[i], expected[i]);
    }
  }
}

TEST_P(ScalerTraining, GradScaleWillNotOverflow) {
  torch::manual_seed(3);
  torch::nn::Linear model(5, 1);
  model->to(device());
  torch::optim::Adam optimizer(model->parameters());
  GradScaler scaler(
      GradScalerOptions(GetParam()).growth_interval(1).growth_factor(16).init_scale(1e38));
  // A loss so small that even this scale gives finite gradients.
  const auto x = 1e-25 * torch::randn({1, 5}, device()), y = 1e-30 * torch::randn({1, 1}, device());
  optimizer.zero_grad();
  const auto loss = (torch::linear(x, model->weight) - y).pow(2).mean();
  scaler.scale(loss).backward();
  ASSERT_TRUE(scaler.step(optimizer).stepped()) << "an overflow hides what is tested";
  scaler.update();
  EXPECT_EQ(static_cast<float>(scaler.get_scale()), 1e38F);
  EXPECT_EQ(scaler.growth_tracker(), 0);
}

TEST_P(ScalerTraining, ParamsInvalidatedWithGradsInvalidatedBetweenUnscaleAndStep) {
  using Kind = FusedForTests::Kind;
  std::vector<MakeOptimizer> makers{
      make_sgd, [](auto parameters) { return std::make_unique<torch::optim::Adam>(parameters); },
      [](auto parameters) { return std::make_unique<torch::optim::AdamW>(parameters); }};
  for (const auto kind : {Kind::sgd, Kind::adam, Kind::adamw})
    makers.emplace_back(
        [kind](auto parameters) { return std::make_unique<FusedForTests>(parameters, kind, 1.0); });
  for (std::size_t m = 0; m < makers.size(); ++m) {
    SCOPED_TRACE(c10::str("optimizer ", m));
    auto model = make_model(device());
    const auto optimizer = makers[m](model->parameters());
    GradScaler scaler(GradScalerOptions(GetParam()).init_scale(128));
    bool first = true;
    for (const auto& [input, target] : make_batches(device())) {
      optimizer->zero_grad();
      scaler.scale(torch::mse_loss(model->forward(input), target)).backward();
      scaler.unscale_(*optimizer);
      int index = 0;
      for (const auto& parameter : model->parameters())
        parameter.mutable_grad().fill_(index++ % 2 ? kInf : kNan);
      // Nobody checks the gradients again after unscale_. From the second batch on the broken
      // parameters make broken gradients, which unscale_ does see.
      EXPECT_EQ(scaler.step(*optimizer).stepped(), first);
      scaler.update();
      first = false;
    }
    for (const auto& parameter : model->parameters())
      EXPECT_FALSE(parameter.isfinite().any().item<bool>());
  }
}

}  // namespace halfstep::testing
