// What makes a step fit for a CUDA graph: rates in tensors, and what the host asks and notes.
#include "halfstep/optim.h"

#include <cmath>
#include <memory>
#include <string>

#include <torch/nn.h>

#include "tests/optim/make_optimizer.h"
#include "tests/support/devices.h"
#include <gtest/gtest.h>

namespace {

using halfstep::optim::AdamOptions;
using halfstep::optim::AdamW;
using halfstep::optim::AdamWOptions;
using halfstep::optim::FusedOptimizer;
using halfstep::optim::Kernel;
using halfstep::optim::MasterWeights;
using halfstep::optim::SGD;
using halfstep::optim::SGDOptions;

class CapturedStep : public halfstep::testing::DeviceTest {
 protected:
  at::Tensor parameter(c10::ScalarType dtype = torch::kFloat) const {
    torch::manual_seed(4);
    auto made = torch::randn({40}, torch::kCPU).to(device(), dtype);
    made.mutable_grad() = torch::ones_like(made) * 0.3;
    return made.requires_grad_();
  }
};

/// The rate that float32 has for `lr`.
double rounded(double lr) {
  return double(float(lr));
}

/// Two steps at a rate and one at another, with gradients of 0.3.
template <class Optimizer, class Options>
at::Tensor trained(at::Tensor parameter, Options options, double second_rate) {
  Optimizer optimizer({parameter}, options.kernel(Kernel::aten));
  optimizer.step();
  optimizer.step();
  optimizer.param_groups()[0].options().set_lr(second_rate);
  optimizer.step();
  return parameter.detach();
}

TEST_P(CapturedStep, RatesInTensorsAreThoseOfFloat32) {
  const double first = 0.1, second = 0.7;  // float32 has neither
  ASSERT_NE(first, rounded(first));
  const auto expect_same = [&]<class Optimizer, class Options>(Options options) {
    const auto by_number =
        trained<Optimizer>(parameter(), Options(options).lr(rounded(first)), rounded(second));
    const auto by_tensor =
        trained<Optimizer>(parameter(), Options(options).lr(first).capturable(), second);
    EXPECT_TRUE(at::equal(by_number, by_tensor));
    EXPECT_FALSE(at::equal(parameter(), by_tensor));
  };
  using namespace halfstep::optim;
  expect_same.operator()<Adam>(AdamOptions().weight_decay(0.1));
  expect_same.operator()<Adam>(AdamOptions().amsgrad(true));
  expect_same.operator()<AdamW>(AdamWOptions());
  expect_same.operator()<SGD>(SGDOptions().momentum(0.9));
  expect_same.operator()<Adagrad>(AdagradOptions().lr_decay(0.1));
}

TEST_P(CapturedStep, OurOwnKernelsTakeTheRateAsItIs) {
  if (GetParam() == c10::kCUDA) GTEST_SKIP() << "our own kernels are the CPU's";
  std::vector<at::Tensor> after;
  for (const bool capturable : {false, true}) {
    auto weight = parameter();
    halfstep::optim::Adam adam({weight}, AdamOptions(0.1).capturable(capturable));
    adam.step();
    after.push_back(weight.detach());
  }
  EXPECT_TRUE(at::equal(after[0], after[1]));
}

TEST_P(CapturedStep, SaysWhyNot) {
  auto weight = parameter();
  SGD plain({weight}, SGDOptions(0.1).momentum(0.9).kernel(Kernel::aten));
  EXPECT_EQ(plain.why_not_captured(device()),
            "SGD has its learning rate on the host: set capturable(true)");
  AdamW adamw({weight}, AdamWOptions(0.1).kernel(Kernel::aten).capturable());
  EXPECT_EQ(adamw.why_not_captured(device()),
            "AdamW has yet to make its first step with these parameters");
  adamw.step();
  EXPECT_EQ(adamw.why_not_captured(device()), "");
  EXPECT_EQ(adamw.why_not_captured(c10::Device(c10::kCUDA, 7)),
            "a parameter of AdamW lies on " + device().str());
  adamw.grad_scale = torch::ones({}, device());
  EXPECT_EQ(adamw.why_not_captured(device()),
            "the grad_scale or found_inf of AdamW holds for one step");
  adamw.grad_scale.reset();
  adamw.found_inf = torch::ones({}, device());
  EXPECT_EQ(adamw.why_not_captured(device()),
            "the grad_scale or found_inf of AdamW holds for one step");
  adamw.found_inf.reset();
  adamw.state().clear();
  EXPECT_EQ(adamw.why_not_captured(device()),
            "AdamW has yet to make its first step with these parameters");
}

TEST_P(CapturedStep, FactsAreAllButTheRate) {
  auto weight = parameter();
  AdamW adamw({weight}, AdamWOptions(0.1).kernel(Kernel::aten).capturable());
  adamw.step();
  const auto facts = adamw.captured_facts();
  auto& options = static_cast<AdamWOptions&>(adamw.param_groups()[0].options());
  options.lr(0.3);
  adamw.write_rates();
  adamw.step();
  EXPECT_EQ(adamw.captured_facts(), facts);
  const auto expect_other = [&](const char* what, const auto& change, const auto& change_back) {
    change();
    EXPECT_NE(adamw.captured_facts(), facts) << what;
    change_back();
    EXPECT_EQ(adamw.captured_facts(), facts) << what;
  };
  expect_other(
      "betas",
      [&] {
        options.betas({0.8, 0.999});
      },
      [&] {
        options.betas({0.9, 0.999});
      });
  expect_other(
      "eps", [&] { options.eps(1e-3); }, [&] { options.eps(1e-8); });
  expect_other(
      "amsgrad", [&] { options.amsgrad(true); }, [&] { options.amsgrad(false); });
  expect_other(
      "clip_norm", [&] { adamw.set_clipping(1, INFINITY); },
      [&] { adamw.set_clipping(INFINITY, INFINITY); });
  auto& state =
      static_cast<halfstep::optim::FusedState&>(*adamw.state().at(weight.unsafeGetTensorImpl()));
  auto other = state.buffers[1].clone();
  const auto swap = [&] { std::swap(state.buffers[1], other); };
  expect_other("state", swap, swap);
  const auto data = weight.data(), moved = weight.data().clone();
  expect_other(
      "memory", [&] { weight.set_data(moved); }, [&] { weight.set_data(data); });
  adamw.keep_shadow_weights(torch::kBFloat16);
  EXPECT_NE(adamw.captured_facts(), facts);
}

TEST_P(CapturedStep, AMasterThatNoLongerBelongsToItsWeightIsAnotherFact) {
  auto weight = parameter(torch::kBFloat16);
  AdamW adamw(
      {weight},
      AdamWOptions(0.1).master_weights(MasterWeights::float32).kernel(Kernel::aten).capturable());
  adamw.step();
  const auto facts = adamw.captured_facts();
  {
    const torch::NoGradGuard no_grad;
    weight.mul_(2);
  }
  EXPECT_NE(adamw.captured_facts(), facts);
  EXPECT_EQ(adamw.why_not_captured(device()), "somebody changed a weight under a master of AdamW");
}

TEST_P(CapturedStep, FactsAreThoseOfParametersWithGradients) {
  auto weight = parameter(), other = parameter();
  AdamW adamw({weight, other}, AdamWOptions(0.1).kernel(Kernel::aten).capturable());
  other.mutable_grad() = at::Tensor();
  adamw.step();
  const auto facts = adamw.captured_facts();
  std::swap(weight.mutable_grad(), other.mutable_grad());
  adamw.step();  // makes a state for the other one
  std::swap(weight.mutable_grad(), other.mutable_grad());
  EXPECT_EQ(adamw.captured_facts(), facts);
  other.mutable_grad() = torch::ones_like(other);
  EXPECT_NE(adamw.captured_facts(), facts);
}

TEST_P(CapturedStep, NotingALaunchGivesVersionsAndANormOfItsOwn) {
  auto weight = parameter();
  AdamW adamw({weight}, AdamWOptions(0.1).clip_norm(1).kernel(Kernel::aten).capturable());
  adamw.step();
  const auto& state =
      static_cast<halfstep::optim::FusedState&>(*adamw.state().at(weight.unsafeGetTensorImpl()));
  const auto norm = adamw.grad_norm();
  const std::vector<at::Tensor> written{weight, state.step, state.buffers[0], state.buffers[1]};
  std::vector<int64_t> versions;
  for (const auto& tensor : written) versions.push_back(tensor._version());
  adamw.note_step(norm);
  for (size_t i = 0; i < written.size(); ++i) EXPECT_GT(written[i]._version(), versions[i]) << i;
  EXPECT_FALSE(adamw.grad_norm().is_same(norm));
  EXPECT_TRUE(at::equal(adamw.grad_norm(), norm));
}

HALFSTEP_ON_EACH_DEVICE(CapturedStep);

}  // namespace
