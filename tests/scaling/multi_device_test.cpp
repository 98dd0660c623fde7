// Losses and gradients on two GPUs; Python's test_cuda_multigpu.py. Skips loudly elsewhere.
#include "halfstep/scaling/grad_scaler.h"

#include <limits>

#include <torch/types.h>

#include "tests/scaling/scaling_case.h"
#include "tests/support/devices.h"

namespace halfstep::testing {

namespace {
const c10::Device kFirst(c10::kCUDA, 0), kSecond(c10::kCUDA, 1);
}

TEST(ScalerOnTwoDevices, GradScalingDeviceAsKey) {
  // Needs no GPU: equal devices are one key, whatever object names them.
  FoundInfs flags;
  flags[kFirst] = torch::zeros({});
  flags[c10::Device("cuda:0")] = torch::ones({});
  ASSERT_EQ(flags.size(), 1U);
  EXPECT_EQ(flags.at(kFirst).item<float>(), 1);
  flags[kSecond] = torch::zeros({});
  flags[c10::Device("cuda:1")] = torch::ones({});
  EXPECT_EQ(flags.size(), 2U);
  EXPECT_EQ(std::hash<c10::Device>()(kSecond), std::hash<c10::Device>()(c10::Device("cuda:1")));
}

TEST(ScalerOnTwoDevices, GradScalingScale) {
  HALFSTEP_REQUIRE_CUDA(2);
  GradScaler scaler(GradScalerOptions(c10::kCUDA).init_scale(2));
  const auto on = [](c10::Device device) { return torch::full({1}, 4.0F, torch::device(device)); };
  const auto outputs =
      std::make_tuple(on(kSecond), std::make_pair(on(kFirst), on(kSecond)),
                      std::make_pair(on(kFirst), std::vector<at::Tensor>{on(kSecond), on(kFirst)}));
  const auto scaled = scaler.scale(outputs);
  EXPECT_EQ(std::get<0>(scaled).item<float>(), 8);
  EXPECT_EQ(std::get<1>(scaled).first.item<float>(), 8);
  EXPECT_EQ(std::get<1>(scaled).second.item<float>(), 8);
  EXPECT_EQ(std::get<2>(scaled).first.item<float>(), 8);
  for (const auto& output : std::get<2>(scaled).second) EXPECT_EQ(output.item<float>(), 8);
  EXPECT_EQ(std::get<1>(scaled).first.device(), kFirst);
  EXPECT_EQ(scaler.get_scale_async().device(), kSecond) << "where the first output lies";
}

// What a machine without two GPUs can show of it: each output meets a copy on its own device.
TEST(ScalerOnTwoDevices, EachOutputMeetsACopyOnItsDevice) {
  GradScaler scaler(GradScalerOptions(c10::kCPU).init_scale(2));
  const auto meta = torch::ones({3}, torch::device(c10::kMeta));
  const auto scaled = scaler.scale({torch::ones({1}), meta, torch::ones({1}), meta});
  EXPECT_EQ(scaled[0].item<float>(), 2);
  EXPECT_TRUE(scaled[1].is_meta() && scaled[3].is_meta());
  EXPECT_EQ(scaled[2].item<float>(), 2);
  EXPECT_TRUE(scaler.get_scale_async().is_cpu());
}

TEST(ScalerOnTwoDevices, GradScalingMultigpu) {
  HALFSTEP_REQUIRE_CUDA(2);
  for (const bool enabled : {true, false}) {
    const auto batches = make_batches(kFirst);
    torch::nn::Sequential control[2] = {make_model(kFirst), make_model(kSecond)};
    torch::nn::Sequential scaled[2] = {twin_of(control[0], kFirst), twin_of(control[1], kSecond)};
    GradScaler scaler(
        GradScalerOptions(c10::kCUDA).init_scale(128).growth_interval(1).enabled(enabled));
    const auto run = [&](torch::nn::Sequential* models, bool scaling) {
      const auto first = make_sgd(models[0]->parameters());
      const auto second = make_sgd(models[1]->parameters());
      for (int i = 0; i < static_cast<int>(batches.size()); ++i) {
        first->zero_grad();
        second->zero_grad();
        const auto& [input, target] = batches[i];
        const auto output0 = models[0]->forward(input);
        const auto output1 = models[1]->forward(input.to(kSecond));
        const auto loss0 = torch::mse_loss(0.3 * output0 + 0.7 * output1.to(kFirst), target);
        const auto loss1 =
            torch::mse_loss(0.6 * output0.to(kSecond) - 0.4 * output1, target.to(kSecond));
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
        if (overflows)
          second_weight(models[1]).mutable_grad().fill_(std::numeric_limits<float>::infinity());
        scaler.unscale_(*first);
        EXPECT_TRUE(scaler.step(*first).stepped());
        EXPECT_EQ(scaler.step(*second).stepped(), !overflows);
        if (enabled) {
          const auto flags0 = scaler.found_inf_per_device(*first);
          const auto flags1 = scaler.found_inf_per_device(*second);
          ASSERT_EQ(flags0.size(), 1U);
          ASSERT_EQ(flags1.size(), 1U);
          EXPECT_EQ(flags0.at(kFirst).item<float>(), 0);
          EXPECT_EQ(flags1.at(kSecond).item<float>(), overflows ? 1 : 0);
        }
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

}  // namespace halfstep::testing
