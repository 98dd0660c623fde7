// An inf or NaN in every place: the step it belongs to is skipped, and no other.
#include "halfstep/scaling/grad_scaler.h"

#include <torch/optim.h>
#include <torch/types.h>

#include "tests/support/devices.h"
#include "tests/support/special_values.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

class Overflow : public DeviceTest {};
HALFSTEP_ON_EACH_DEVICE(Overflow);

namespace {

/// Two optimizers with two groups of two parameters each.
struct TwoOptimizers {
  std::vector<at::Tensor> parameters;  // optimizer 0: 0..3, optimizer 1: 4..7
  std::vector<std::unique_ptr<torch::optim::SGD>> optimizers;
  GradScaler scaler;

  TwoOptimizers(c10::Device device, c10::ScalarType dtype)
      : scaler(GradScalerOptions(device.type()).init_scale(8)) {
    const auto options = torch::device(device).dtype(dtype).requires_grad(true);
    for (int i = 0; i < 8; ++i) parameters.push_back(torch::full({3}, 1.0 + i, options));
    for (int o = 0; o < 2; ++o) {
      std::vector<torch::optim::OptimizerParamGroup> groups;
      for (int g = 0; g < 2; ++g)
        groups.emplace_back(
            std::vector<at::Tensor>{parameters[4 * o + 2 * g], parameters[4 * o + 2 * g + 1]});
      optimizers.push_back(
          std::make_unique<torch::optim::SGD>(groups, torch::optim::SGDOptions(0.5)));
    }
  }

  void backward() {
    for (auto& optimizer : optimizers) optimizer->zero_grad();
    auto loss = torch::zeros({}, parameters[0].options());
    for (const auto& parameter : parameters) loss = loss + (parameter * 2).sum();
    scaler.scale(loss).backward();
  }
};

}  // namespace

TEST_P(Overflow, SkipsItsOwnOptimizerOnly) {
  int skipped = 0;
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    for (const float value : {kInf, -kInf, kNan}) {
      for (int place = -1; place < 8; ++place) {
        for (const int element : {0, 2}) {
          SCOPED_TRACE(c10::str(dtype, ", ", value, " in parameter ", place, "[", element, "]"));
          TwoOptimizers setup(device(), dtype);
          setup.backward();
          if (place >= 0) setup.parameters[place].mutable_grad()[element] = value;
          for (int o = 0; o < 2; ++o) {
            const bool skips = place >= 0 && place / 4 == o;
            const auto result = setup.scaler.step(*setup.optimizers[o]);
            EXPECT_TRUE(result.is_known());
            EXPECT_EQ(result.stepped(), !skips);
            EXPECT_EQ(result.found_inf().item<float>(), skips ? 1 : 0);
            for (int i = 4 * o; i < 4 * o + 4; ++i)
              EXPECT_TRUE(
                  setup.parameters[i].eq(skips ? 1.0 + i : 1.0 + i - 0.5 * 2).all().item<bool>());
            skipped += skips;
          }
          setup.scaler.update();
          EXPECT_EQ(setup.scaler.get_scale(), place >= 0 ? 4 : 8);
          EXPECT_EQ(setup.scaler.growth_tracker(), place >= 0 ? 0 : 1);
        }
      }
    }
  }
  EXPECT_EQ(skipped, 3 * 3 * 8 * 2) << "the tested overflows did not happen";
}

TEST_P(Overflow, InBothOptimizersBacksOffOnce) {
  TwoOptimizers setup(device(), torch::kFloat);
  setup.backward();
  setup.parameters[0].mutable_grad().fill_(kNan);
  setup.parameters[7].mutable_grad().fill_(kInf);
  for (auto& optimizer : setup.optimizers) EXPECT_FALSE(setup.scaler.step(*optimizer).stepped());
  setup.scaler.update();
  EXPECT_EQ(setup.scaler.get_scale(), 4);
}

TEST_P(Overflow, SeenByUnscaleOnlyStillBacksOff) {
  TwoOptimizers setup(device(), torch::kFloat);
  setup.backward();
  setup.parameters[5].mutable_grad()[1] = kInf;
  setup.scaler.unscale_(*setup.optimizers[1]);
  EXPECT_EQ(setup.scaler.found_inf_per_device(*setup.optimizers[1]).at(device()).item<float>(), 1);
  EXPECT_TRUE(setup.scaler.found_inf_per_device(*setup.optimizers[0]).empty());
  setup.scaler.update();
  EXPECT_EQ(setup.scaler.get_scale(), 4);
  EXPECT_TRUE(setup.scaler.found_inf_per_device(*setup.optimizers[1]).empty());
}

TEST_P(Overflow, ByTheScaleItself) {
  TwoOptimizers setup(device(), torch::kFloat);
  GradScaler scaler(GradScalerOptions(GetParam()).init_scale(std::ldexp(1.0, 127)));
  auto loss = (setup.parameters[0] * 4).sum();  // 4 * 2^127 is past float32
  scaler.scale(loss).backward();
  EXPECT_FALSE(scaler.step(*setup.optimizers[0]).stepped());
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), std::ldexp(1.0, 126));
  EXPECT_TRUE(setup.parameters[0].eq(1).all().item<bool>());
}

TEST_P(Overflow, GrowsAfterTheIntervalOnly) {
  TwoOptimizers setup(device(), torch::kFloat);
  setup.scaler.set_growth_interval(3);
  std::vector<std::pair<double, int64_t>> seen;
  for (int i = 0; i < 8; ++i) {
    setup.backward();
    if (i == 4) setup.parameters[3].mutable_grad()[0] = kNan;
    for (auto& optimizer : setup.optimizers) setup.scaler.step(*optimizer);
    setup.scaler.update();
    seen.emplace_back(setup.scaler.get_scale(), setup.scaler.growth_tracker());
  }
  const std::vector<std::pair<double, int64_t>> expected{{8, 1}, {8, 2}, {16, 0}, {16, 1},
                                                         {8, 0}, {8, 1}, {8, 2},  {16, 0}};
  EXPECT_EQ(seen, expected);
}

}  // namespace halfstep::testing
