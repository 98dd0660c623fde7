#include "halfstep/scaling/grad_scaler.h"

#include <bit>
#include <cstring>

#include <ATen/Version.h>
#include <torch/optim.h>

#include "tests/scaling/fused_for_tests.h"
#include "tests/scaling/golden/grad_scaler_trace.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

using torch::optim::AdamOptions;
using torch::optim::OptimizerParamGroup;
using torch::optim::SGDOptions;

namespace {

std::unique_ptr<torch::optim::Optimizer> make_optimizer(const std::string& name,
                                                        const std::vector<at::Tensor>& parameters) {
  std::vector<OptimizerParamGroup> groups;
  for (int g = 0; g < 2; ++g) {
    std::vector<at::Tensor> members;
    for (std::size_t i = 0; i < parameters.size(); ++i)
      if (golden::kParameters[i].group == g) members.push_back(parameters[i]);
    const double lr = golden::kLearningRates[g], decay = golden::kWeightDecays[g];
    if (name == "sgd" || name == "momentum") {
      auto options =
          SGDOptions(lr).weight_decay(decay).momentum(name == "momentum" ? golden::kMomentum : 0.0);
      groups.emplace_back(members, std::make_unique<SGDOptions>(options));
    } else {
      groups.emplace_back(members,
                          std::make_unique<AdamOptions>(AdamOptions(lr).weight_decay(decay)));
    }
  }
  if (name == "fused_adam")
    return std::make_unique<FusedForTests>(groups, FusedForTests::Kind::adam);
  if (name == "adam") return std::make_unique<torch::optim::Adam>(groups, AdamOptions());
  return std::make_unique<torch::optim::SGD>(groups, SGDOptions(1.0));
}

at::Tensor tensor_of_bits(const std::vector<uint32_t>& bits) {
  auto tensor = torch::empty({static_cast<int64_t>(bits.size())});
  std::memcpy(tensor.mutable_data_ptr(), bits.data(), bits.size() * sizeof(uint32_t));
  return tensor;
}

/// Where the parameters must agree to the bit: the trace's machine fused multiply and add, as every
/// CPU with AVX2 does, and LibTorch's C++ Adam orders its arithmetic unlike Python's (mul and add
/// for Python's lerp).
bool same_kernels(const golden::Trace& trace, c10::Device device) {
  return device.is_cpu() && at::get_cpu_capability().starts_with("AVX") &&
         trace.optimizer != "adam";
}

}  // namespace

class GoldenTrace : public ::testing::TestWithParam<std::tuple<c10::DeviceType, golden::Trace>> {};

TEST_P(GoldenTrace, AgreesWithPython) {
  const auto& [device_type, trace] = GetParam();
  if (device_type == c10::kCUDA) HALFSTEP_REQUIRE_CUDA(1);
  const c10::Device device(device_type, device_type == c10::kCUDA ? 0 : -1);
  std::vector<at::Tensor> parameters, targets, weights;
  for (const auto& parameter : golden::kParameters) {
    parameters.push_back(torch::tensor(parameter.start).to(device).requires_grad_());
    targets.push_back(torch::tensor(parameter.target).to(device));
    weights.push_back(torch::tensor(parameter.weight).to(device));
  }
  const auto optimizer = make_optimizer(trace.optimizer, parameters);
  GradScaler scaler(GradScalerOptions(device_type)
                        .init_scale(trace.init_scale)
                        .growth_factor(trace.growth_factor)
                        .backoff_factor(trace.backoff_factor)
                        .growth_interval(trace.growth_interval));
  int skipped = 0;
  for (int step = 0; step < static_cast<int>(trace.steps.size()); ++step) {
    optimizer->zero_grad();
    std::vector<at::Tensor> losses;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto difference = (parameters[i] - targets[i]) * weights[i];
      losses.push_back((difference * difference).sum());
    }
    scaler.scale(losses[0] + losses[1] + losses[2]).backward();
    for (const auto& injection : golden::kInjections)
      if (injection.step == step)
        parameters[injection.parameter].mutable_grad()[injection.element] = injection.value;

    const StepResult result = scaler.step(*optimizer);
    scaler.update();

    const golden::Step& expected = trace.steps[step];
    ASSERT_EQ(!result.stepped(), expected.found_inf) << "step " << step;
    ASSERT_EQ(std::bit_cast<uint32_t>(static_cast<float>(scaler.get_scale())), expected.scale)
        << "step " << step << ": scale " << scaler.get_scale();
    ASSERT_EQ(scaler.growth_tracker(), expected.tracker) << "step " << step;
    skipped += expected.found_inf;
    if ((step + 1) % golden::kSnapshotEvery != 0) continue;
    SCOPED_TRACE(c10::str("after step ", step));
    const auto got = torch::cat(parameters).detach();
    const auto snapshot = tensor_of_bits(trace.snapshots[step / golden::kSnapshotEvery]);
    if (same_kernels(trace, device)) {
      expect_same_bits(got, snapshot);
    } else {
      expect_close(got, snapshot, tolerance(torch::kFloat, "step"));
    }
  }
  ASSERT_GE(skipped, 10) << "the trace has too few overflows to prove anything";
}

INSTANTIATE_TEST_SUITE_P(On, GoldenTrace,
                         ::testing::Combine(::testing::Values(c10::kCPU, c10::kCUDA),
                                            ::testing::ValuesIn(golden::kTraces)),
                         [](const auto& test) {
                           const auto& trace = std::get<1>(test.param);
                           return std::string(std::get<0>(test.param) == c10::kCPU ? "CPU"
                                                                                   : "CUDA") +
                                  "_" + trace.optimizer + "_" + trace.scaling;
                         });

}  // namespace halfstep::testing
