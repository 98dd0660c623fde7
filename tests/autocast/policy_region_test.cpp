#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/call_rules.h"
#include "halfstep/autocast/propagate.h"
#include "halfstep/core/error.h"

#include <future>
#include <thread>

#include <torch/library.h>
#include <torch/torch.h>

#include "tests/autocast/deep_backward.h"
#include "tests/autocast/policy_test.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep {

using testing::expect_same_bits;

namespace {

constexpr auto kLow = torch::kBFloat16;

/// A custom op of a user's library, without an autocast kernel; twice_low has one.
TORCH_LIBRARY(halfstep_policy_test, library) {
  library.def("twice(Tensor x) -> Tensor");
  library.def("twice_low(Tensor x) -> Tensor");
}
torch::Tensor twice(const torch::Tensor& x) {
  return x * 2;
}
TORCH_LIBRARY_IMPL(halfstep_policy_test, CompositeImplicitAutograd, library) {
  library.impl("twice", twice);
  library.impl("twice_low", twice);
}
TORCH_LIBRARY_IMPL(halfstep_policy_test, AutocastCPU, library) {
  library.impl("twice_low", [](const torch::Tensor& x) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
    return twice(x.to(kLow));
  });
}

torch::Tensor call_custom(const char* name, const torch::Tensor& x) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(name, "")
      .typed<torch::Tensor(const torch::Tensor&)>()
      .call(x);
}

}  // namespace

class PolicyRegion : public testing::PolicyTest {
 protected:
  /// CPU's list leaves softmax alone, so that this policy shows there.
  OpPolicy float32_softmax() const {
    return OpPolicy::torch(torch::kCPU).set("softmax", CastRule::float32);
  }
  c10::ScalarType softmax() const { return at::softmax(low, 1).scalar_type(); }
  c10::ScalarType stock_softmax() const {
    return GetParam() == torch::kCUDA ? torch::kFloat : kLow;
  }
};
HALFSTEP_ON_EACH_DEVICE(PolicyRegion);

TEST_P(PolicyRegion, HoldsInItsRegionAndNowhereElse) {
  {
    const Autocast autocast(region());
    EXPECT_EQ(softmax(), stock_softmax());
  }
  {
    const Autocast autocast(region(float32_softmax()));
    EXPECT_EQ(softmax(), torch::kFloat);
    EXPECT_EQ(at::mm(x, x.t()).scalar_type(), kLow);
  }
  {
    const Autocast autocast(region());
    EXPECT_EQ(softmax(), stock_softmax());
  }
  EXPECT_EQ(softmax(), kLow) << "without autocast";
}

TEST_P(PolicyRegion, HoldsInNestedRegionsUntilOneHasItsOwn) {
  const Autocast outer(region(float32_softmax()));
  {
    const Autocast nested(region());
    EXPECT_EQ(softmax(), torch::kFloat);
    {
      const Autocast off(region().enabled(false));
      EXPECT_EQ(softmax(), kLow);
      const Autocast on_again(region());
      EXPECT_EQ(softmax(), torch::kFloat);
    }
    {
      const Autocast own(region(OpPolicy::torch(torch::kCPU)));
      EXPECT_EQ(softmax(), kLow);
    }
    EXPECT_EQ(softmax(), torch::kFloat);
  }
}

// A policy belongs to the device type of its region.
TEST_P(PolicyRegion, LeavesOtherDeviceTypesAlone) {
  if (GetParam() != torch::kCPU) GTEST_SKIP() << "told on the CPU";
  const Autocast outer(region(float32_softmax()));
  const Autocast nested(
      AutocastOptions(torch::kXPU).dtype(torch::kHalf).policy(OpPolicy::torch(torch::kXPU)));
  EXPECT_EQ(softmax(), torch::kFloat);
}

TEST_P(PolicyRegion, HoldsOnAutogradsThreads) {
  c10::ScalarType seen{};
  const Autocast autocast(region(float32_softmax()));
  const auto thread = testing::DeepBackward::run([&] { seen = softmax(); });
  EXPECT_NE(thread, std::this_thread::get_id());
  EXPECT_EQ(seen, torch::kFloat);
}

TEST_P(PolicyRegion, HoldsOnThreadsThatPropagateCarriesItTo) {
  const Autocast autocast(region(float32_softmax()));
  c10::ScalarType carried{};
  c10::ScalarType plain{};
  std::thread(propagate([&] { carried = softmax(); })).join();
  std::thread([&] {
    const Autocast own(region());
    plain = softmax();
  }).join();
  EXPECT_EQ(carried, torch::kFloat);
  EXPECT_EQ(plain, stock_softmax());
}

// The policy goes on where it was carried to, also after its region ended.
TEST_P(PolicyRegion, MayEndBeforeTheThreadItWasCarriedTo) {
  std::promise<void> ended;
  std::thread worker;
  c10::ScalarType seen{};
  const auto weight = torch::randn({6, 6}, device()).requires_grad_();
  {
    const Autocast autocast(region(float32_softmax()));
    worker = std::thread(propagate([&] {
      ended.get_future().wait();
      seen = softmax();
      EXPECT_EQ(at::linear(x, weight).scalar_type(), kLow);
    }));
  }
  ended.set_value();
  worker.join();
  EXPECT_EQ(seen, torch::kFloat);
}

TEST_P(PolicyRegion, EndsWhenAnExceptionPasses) {
  try {
    const Autocast autocast(region(float32_softmax()));
    at::mm(x, x);
    FAIL() << "the shapes don't fit";
  } catch (const c10::Error&) {}
  const Autocast autocast(region());
  EXPECT_EQ(softmax(), stock_softmax());
}

// torch::nn::Linear calls addmm in 2-D with a bias, else matmul; at::linear is an op of its own.
TEST_P(PolicyRegion, TheLinearFamilyReachesEveryEntry) {
  torch::nn::Linear with_bias(6, 3);
  torch::nn::Linear without(torch::nn::LinearOptions(6, 3).bias(false));
  with_bias->to(device());
  without->to(device());
  const std::vector<std::function<torch::Tensor()>> calls{
      [&] { return with_bias->forward(x); },
      [&] {
        return with_bias->forward(x.view({2, 2, 6}));
      },
      [&] { return without->forward(x); },
      [&] {
        return without->forward(x.view({2, 2, 6}));
      },
      [&] { return at::linear(x, with_bias->weight, with_bias->bias); },
      [&] {
        return at::linear(x.view({2, 2, 6}), with_bias->weight);
      }};
  for (size_t i = 0; i < calls.size(); ++i) {
    SCOPED_TRACE(i);
    torch::Tensor expected = calls[i]();
    const Autocast stock(region());
    EXPECT_EQ(calls[i]().scalar_type(), kLow);
    for (const auto* family : {"linear", "matmul"}) {
      const Autocast autocast(region(torch_list().set(family, CastRule::float32)));
      expect_same_bits(calls[i](), expected);
    }
  }
}

TEST_P(PolicyRegion, TheConvFamilyReachesEveryEntry) {
  torch::nn::Conv2d zeros(torch::nn::Conv2dOptions(3, 4, 3).padding(1));
  torch::nn::Conv2d same(torch::nn::Conv2dOptions(3, 4, 3).padding(torch::kSame));
  torch::nn::ConvTranspose2d transposed(torch::nn::ConvTranspose2dOptions(3, 4, 3));
  torch::nn::Conv1d one(torch::nn::Conv1dOptions(3, 4, 3));
  zeros->to(device()), same->to(device()), transposed->to(device()), one->to(device());
  const auto images = torch::randn({2, 3, 8, 8}, device());
  const std::vector<std::function<torch::Tensor()>> calls{
      [&] { return zeros->forward(images); }, [&] { return same->forward(images); },
      [&] { return transposed->forward(images); }, [&] { return one->forward(images.flatten(2)); },
      [&] {
        return at::convolution(images, zeros->weight, zeros->bias, {1, 1}, {1, 1}, {1, 1}, false,
                               {0, 0}, 1);
      }};
  for (size_t i = 0; i < calls.size(); ++i) {
    SCOPED_TRACE(i);
    const auto expected = calls[i]();
    const Autocast autocast(region(torch_list().set("conv", CastRule::float32)));
    expect_same_bits(calls[i](), expected);
  }
}

// A rule acts where the call enters: the op hides those it is made of.
TEST_P(PolicyRegion, AnOpWithARuleHidesThoseItIsMadeOf) {
  auto policy = torch_list().set("mm", CastRule::float32);
  const Autocast autocast(region(policy));
  EXPECT_EQ(at::mm(x, x.t()).scalar_type(), torch::kFloat);
  EXPECT_EQ(at::matmul(x, x.t()).scalar_type(), kLow);
  // Without a rule of its own, an op's parts follow theirs.
  const Autocast without(region(policy.remove("matmul")));
  EXPECT_EQ(at::matmul(x, x.t()).scalar_type(), torch::kFloat);
}

TEST_P(PolicyRegion, KeepLeavesTheInputsAndTheOpsInside) {
  const Autocast autocast(region(torch_list().set("matmul", CastRule::keep)));
  EXPECT_EQ(at::matmul(x, x.t()).scalar_type(), torch::kFloat);
  EXPECT_EQ(at::matmul(low, low.t()).scalar_type(), kLow);
  EXPECT_THROW(at::matmul(x, low.t()), c10::Error);
}

TEST_P(PolicyRegion, BannedThrowsWithTheOpsName) {
  const Autocast autocast(region(torch_list().set("softmax", CastRule::banned)));
  EXPECT_ERROR(softmax(), UsageError,
               "[OpPolicy] the region's policy bans softmax.int, but got a call of it");
  const Autocast off(region().enabled(false));
  EXPECT_EQ(softmax(), kLow);
}

TEST_P(PolicyRegion, PromoteOrLowerIsLowForFloat32Only) {
  const Autocast autocast(region(torch_list().set("cat", CastRule::promote_or_lower)));
  EXPECT_EQ(at::cat({x, x}).scalar_type(), kLow);
  EXPECT_EQ(at::cat({low, low}).scalar_type(), kLow);
  EXPECT_EQ(at::cat({low, x}).scalar_type(), torch::kFloat);
  // Integers don't count, and float64 is left alone.
  const auto whole = torch::ones({4, 6}, torch::dtype(torch::kLong).device(device()));
  EXPECT_EQ(at::cat({x, whole}).scalar_type(), kLow);
  EXPECT_EQ(at::cat({x, x.to(torch::kDouble)}).scalar_type(), torch::kDouble);
}

TEST_P(PolicyRegion, CastsListsOptionalTensorsAndDtypes) {
  auto policy = torch_list();
  policy.set("stack", CastRule::float32).set("layer_norm", CastRule::float32);
  policy.set("sum", CastRule::float32_set_dtype).set("norm", CastRule::float32_append_dtype);
  const Autocast autocast(region(policy));
  EXPECT_EQ(at::stack({low, low}).scalar_type(), torch::kFloat);
  const auto scale = torch::ones({6}, device()).to(kLow);
  EXPECT_EQ(at::layer_norm(low, {6}, scale).scalar_type(), torch::kFloat);
  EXPECT_EQ(at::layer_norm(low, {6}).scalar_type(), torch::kFloat) << "weight and bias are None";
  EXPECT_EQ(at::sum(low).scalar_type(), torch::kFloat);
  EXPECT_EQ(at::sum(low, torch::kHalf).scalar_type(), torch::kHalf) << "asked for by the caller";
  EXPECT_EQ(at::sum(low.to(torch::kLong)).scalar_type(), torch::kLong);
  EXPECT_EQ(at::norm(low).scalar_type(), torch::kFloat);
  EXPECT_EQ(at::norm(low, 2, {1}, true).scalar_type(), torch::kFloat);
  EXPECT_EQ(at::norm(x.to(torch::kDouble)).scalar_type(), torch::kDouble);
}

// Batch norm writes its running statistics, which no copy may take.
TEST_P(PolicyRegion, CatAndStackFollowThePolicyInsideAndLibTorchsListOutside) {
  auto policy = torch_list();
  policy.set("cat", CastRule::lower_precision).set("stack", CastRule::lower_precision);
  const std::vector<torch::Tensor> mixed{x, low};
  const auto dtypes = [&] {
    return std::pair(at::cat(mixed).scalar_type(), at::stack(mixed, 1).scalar_type());
  };
  {
    const Autocast autocast(region(policy));
    EXPECT_EQ(dtypes(), std::pair(kLow, kLow));
    expect_same_bits(at::stack(mixed, 1), torch::stack({low, low}, 1));
  }
  const Autocast autocast(region());
  EXPECT_EQ(dtypes(), std::pair(torch::kFloat, torch::kFloat));
  expect_same_bits(at::stack(mixed, 1), torch::stack({x, low.to(torch::kFloat)}, 1));
  expect_same_bits(at::cat({low, low}), torch::cat({low, low}));
}

TEST_P(PolicyRegion, DoesNotCastRunningStatistics) {
  torch::nn::BatchNorm1d norm(torch::nn::BatchNorm1dOptions(6).affine(false));
  norm->to(device());
  const Autocast autocast(region(OpPolicy::safe().set("batch_norm", CastRule::lower_precision)));
  EXPECT_EQ(norm->forward(low + 3).scalar_type(), kLow);
  EXPECT_GT(norm->running_mean.abs().sum().item<float>(), 0.1);
  // Weight and bias have their dtype, else the kernel would not take them.
  torch::nn::BatchNorm1d affine(6);
  affine->to(device());
  EXPECT_EQ(affine->forward(x).scalar_type(), kLow);
}

TEST_P(PolicyRegion, ReachesOpsOfOtherLibraries) {
  if (GetParam() != torch::kCPU) GTEST_SKIP() << "the ops have a CPU kernel";
  {
    const Autocast autocast(
        region(OpPolicy().set("halfstep_policy_test::twice", CastRule::float32)));
    EXPECT_EQ(call_custom("halfstep_policy_test::twice", low).scalar_type(), torch::kFloat);
    EXPECT_EQ(call_custom("halfstep_policy_test::twice_low", x).scalar_type(), kLow);
  }
  {
    const Autocast autocast(
        region(OpPolicy().set("halfstep_policy_test::twice_low", CastRule::float32)));
    EXPECT_EQ(call_custom("halfstep_policy_test::twice_low", low).scalar_type(), torch::kFloat);
  }
  // Where a policy says nothing of it, its own kernel runs.
  const Autocast autocast(region(OpPolicy()));
  EXPECT_EQ(call_custom("halfstep_policy_test::twice_low", x).scalar_type(), kLow);
  EXPECT_EQ(call_custom("halfstep_policy_test::twice", low).scalar_type(), kLow);
}

TEST_P(PolicyRegion, TellsWhichRulesNeverMatched) {
  auto policy = torch_list();
  policy.set("linear", CastRule::float32).set("_softmax", CastRule::float32);
  EXPECT_THAT(policy.unmatched(), ::testing::ElementsAre("_softmax", "linear"));
  for (int step = 0; step < 2; ++step) {
    const Autocast autocast(region(policy));
    at::addmm(x[0], x, torch::ones({6, 6}, device()));
    softmax();  // _softmax is inside, on CUDA hidden by softmax
  }
  at::addmm(x[0], x, torch::ones({6, 6}, device()));
  const auto uses = policy.uses();
  const auto addmm =
      std::find_if(uses.begin(), uses.end(), [](const RuleUse& use) { return use.op == "addmm"; });
  ASSERT_NE(addmm, uses.end());
  EXPECT_EQ(addmm->calls, 2);
  EXPECT_EQ(addmm->set_as, "linear");
  EXPECT_EQ(addmm->rule, CastRule::float32);
  const bool hidden = GetParam() == torch::kCUDA;
  EXPECT_EQ(policy.unmatched().size(), hidden ? 1 : 0) << "the family matched by one of its ops";
}

// The hook that rules by module stand on.
TEST_P(PolicyRegion, AsksCallRulesAboutEachCall) {
  class WideOnly final : public detail::CallRules {
   public:
    explicit WideOnly(int64_t width) : width_(width) {}
    std::vector<std::string> ops() const override { return {"relu"}; }
    std::optional<CastRule> rule(const c10::OperatorHandle&, std::optional<CastRule> by_name,
                                 c10::ArrayRef<c10::IValue> arguments) const override {
      const bool wide = arguments[0].isTensor() && arguments[0].toTensor().size(0) == width_;
      return wide ? std::optional(CastRule::float32) : by_name;
    }

   private:
    int64_t width_;
  };
  auto policy = torch_list().add_call_rules(std::make_shared<WideOnly>(4));
  const Autocast autocast(region(policy));
  EXPECT_EQ(at::relu(low).scalar_type(), torch::kFloat);
  EXPECT_EQ(at::relu(low.slice(0, 0, 2)).scalar_type(), kLow);
  EXPECT_EQ(at::mm(low, low.t()).scalar_type(), torch::kFloat);
  EXPECT_EQ(at::mm(low.slice(0, 0, 2), low.t()).scalar_type(), kLow);
}

}  // namespace halfstep
