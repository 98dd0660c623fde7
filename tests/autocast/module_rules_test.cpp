#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/module_scope.h"
#include "halfstep/autocast/propagate.h"
#include "halfstep/core/error.h"
#include "halfstep/nn/linear.h"

#include <cstddef>
#include <functional>
#include <memory>
#include <thread>

#include <torch/torch.h>

#include "tests/autocast/deep_backward.h"
#include "tests/autocast/policy_test.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep {

using ::testing::ElementsAre;
using testing::expect_same_bits;

namespace {

struct RuledNetImpl : torch::nn::Module {
  RuledNetImpl() {
    body = register_module(
        "body", torch::nn::Sequential(nn::Linear(6, 6), torch::nn::ReLU(),
                                      torch::nn::LayerNorm(torch::nn::LayerNormOptions({6}))));
    head = register_module("head", torch::nn::Linear(6, 3));
    header = register_module("header", torch::nn::Linear(6, 3));
    scale = register_parameter("scale", torch::ones({6, 6}));
  }
  torch::nn::Sequential body = nullptr;
  torch::nn::Linear head = nullptr;
  torch::nn::Linear header = nullptr;
  torch::Tensor scale;
};
TORCH_MODULE(RuledNet);

}  // namespace

class ModuleRules : public testing::PolicyTest {
 protected:
  void SetUp() override {
    testing::PolicyTest::SetUp();
    if (IsSkipped()) return;
    net = RuledNet();
    net->to(device());
  }
  OpPolicy float32_head() const {
    return torch_list().module("head", CastRule::float32).bind(*net);
  }
  c10::ScalarType head() { return net->head->forward(x).scalar_type(); }
  c10::ScalarType header() { return net->header->forward(x).scalar_type(); }
  /// An op of no parameter.
  c10::ScalarType product() { return at::mm(x, x.t()).scalar_type(); }

  RuledNet net = nullptr;
};
HALFSTEP_ON_EACH_DEVICE(ModuleRules);

TEST_P(ModuleRules, HoldForTheModulesParametersAndNothingElse) {
  const auto expected = net->head->forward(x);
  {
    const Autocast autocast(region(float32_head()));
    expect_same_bits(net->head->forward(x), expected);
    EXPECT_EQ(header(), kLow);
    EXPECT_EQ(product(), kLow);
    EXPECT_EQ(net->body->forward(x).scalar_type(),
              GetParam() == torch::kCUDA ? torch::kFloat : kLow);
  }
  {
    const Autocast stock(region());
    EXPECT_EQ(head(), kLow);
  }
  EXPECT_EQ(head(), torch::kFloat) << "without autocast";
}

// torch::nn::Linear passes weight.t(): as addmm in 2-D, as matmul in 3-D and without bias.
TEST_P(ModuleRules, LookThroughViewsAtEveryEntryOfALayer) {
  const auto& weight = net->head->weight;
  const auto three = x.view({2, 2, 6});
  const std::vector<std::function<torch::Tensor()>> calls{
      [&] { return net->head->forward(x); },
      [&] { return net->head->forward(three); },
      [&] { return at::linear(x, weight); },
      [&] { return at::mm(x, weight.t()); },
      [&] { return at::matmul(three, weight.t()); },
      [&] { return at::mm(x, weight.detach().t()); },
      [&] {
        return at::mm(x, weight.view({3, 6}).slice(0, 0, 2).t());
      },
      [&] {
        const torch::NoGradGuard no_grad;
        return at::mm(x, weight.t());
      }};
  const auto policy = float32_head();
  for (size_t i = 0; i < calls.size(); ++i) {
    SCOPED_TRACE(i);
    const auto expected = calls[i]();
    {
      const Autocast stock(region());
      EXPECT_EQ(calls[i]().scalar_type(), kLow);
    }
    const Autocast autocast(region(policy));
    expect_same_bits(calls[i](), expected);
    const torch::InferenceMode inference;
    expect_same_bits(calls[i](), expected);
  }
}

TEST_P(ModuleRules, ReachLayersThatAutocastLeavesAlone) {
  torch::nn::Embedding embedding(5, 6);
  torch::nn::BatchNorm1d batch_norm(6);
  torch::nn::GroupNorm group_norm(torch::nn::GroupNormOptions(2, 6));
  torch::nn::PReLU prelu;
  torch::nn::ModuleList layers(embedding, batch_norm, group_norm, prelu);
  layers->to(device());
  const auto words = torch::arange(4, torch::dtype(torch::kLong).device(device()));
  auto policy = torch_list().module("0", CastRule::lower_precision);
  for (const auto* path : {"1", "2", "3"}) policy.module(path, CastRule::float32);
  policy.bind(*layers);
  const Autocast autocast(region(policy));
  EXPECT_EQ(embedding->forward(words).scalar_type(), kLow);
  EXPECT_EQ(batch_norm->forward(low).scalar_type(), torch::kFloat);
  EXPECT_EQ(group_norm->forward(low).scalar_type(), torch::kFloat);
  EXPECT_EQ(prelu->forward(low).scalar_type(), torch::kFloat);
  EXPECT_TRUE(policy.unmatched_modules().empty());
}

TEST_P(ModuleRules, ReachRecurrentLayersWithTheirListsOfWeights) {
  HALFSTEP_REQUIRE_TRUE_CUDA("fused cells");
  HALFSTEP_REQUIRE_BFLOAT16_LSTM(GetParam());
  torch::nn::LSTM lstm(6, 6);
  torch::nn::ModuleList layers(lstm);
  layers->to(device());
  const auto run = [&] { return std::get<0>(lstm->forward(x.unsqueeze(0))); };
  const auto expected = run();
  {
    const Autocast stock(region());
    EXPECT_EQ(run().scalar_type(), kLow);
  }
  const Autocast autocast(region(torch_list().module("0", CastRule::float32).bind(*layers)));
  expect_same_bits(run(), expected);
}

TEST_P(ModuleRules, FindParametersInListsOfTensors) {
  const auto policy = torch_list().module("head", CastRule::lower_precision).bind(*net);
  const Autocast autocast(region(policy));
  EXPECT_EQ(at::cat({x, net->head->weight}).scalar_type(), kLow);
  EXPECT_EQ(at::cat({x, net->header->weight}).scalar_type(), torch::kFloat);
}

TEST_P(ModuleRules, TakeTheExactPathBeforeThePattern) {
  auto policy = torch_list();
  policy.module("head.*", CastRule::float32).module("header", CastRule::keep).bind(*net);
  const Autocast autocast(region(policy));
  EXPECT_EQ(head(), torch::kFloat);
  EXPECT_EQ(net->header->forward(x).scalar_type(), torch::kFloat);
  net->header->to(kLow);
  EXPECT_EQ(net->header->forward(low).scalar_type(), kLow) << "keep";
}

TEST_P(ModuleRules, NumbersInPathsAreNoPatterns) {
  torch::nn::ModuleList blocks;
  for (int i = 0; i < 12; ++i) blocks->push_back(torch::nn::Linear(6, 6));
  torch::nn::ModuleDict root;
  root->update({{"blocks", blocks.ptr()}});
  root->to(device());
  const Autocast autocast(region(torch_list().module("blocks.1", CastRule::float32).bind(*root)));
  const auto run = [&](size_t i) {
    return blocks[i]->as<torch::nn::Linear>()->forward(x).scalar_type();
  };
  EXPECT_EQ(run(1), torch::kFloat);
  EXPECT_EQ(run(11), kLow);
}

TEST_P(ModuleRules, WinOverTheOpsOwnRule) {
  auto policy = torch_list().set("linear", CastRule::float32);
  policy.set("softmax", CastRule::banned).set("relu", CastRule::banned);
  policy.module("head", CastRule::lower_precision).module("body", CastRule::float32).bind(*net);
  const Autocast autocast(region(policy));
  EXPECT_EQ(head(), kLow);
  EXPECT_EQ(header(), torch::kFloat);
  // A ban is because of 16 bits.
  const ModuleScope body(*net->body);
  EXPECT_EQ(at::softmax(low, 1).scalar_type(), torch::kFloat);
  const ModuleScope head(*net->head);
  EXPECT_ERROR(at::softmax(low, 1), UsageError, "the region's policy bans softmax.int");
}

TEST_P(ModuleRules, HoldForAllOpsInsideAScope) {
  const Autocast autocast(region(float32_head()));
  EXPECT_EQ(product(), kLow);
  {
    const ModuleScope scope(*net->head);
    EXPECT_EQ(product(), torch::kFloat);
    EXPECT_EQ(at::cat({low, low}).scalar_type(), torch::kFloat);
  }
  {
    const ModuleScope scope("head");
    EXPECT_EQ(product(), torch::kFloat);
  }
  const ModuleScope scope("header");
  EXPECT_EQ(product(), kLow);
}

TEST_P(ModuleRules, ScopesNest) {
  auto policy = torch_list();
  policy.module("body", CastRule::float32).module("body.2", CastRule::lower_precision).bind(*net);
  const Autocast autocast(region(policy));
  const ModuleScope body(*net->body);
  EXPECT_EQ(product(), torch::kFloat);
  {
    const ModuleScope norm("body.2");
    EXPECT_EQ(product(), kLow);
  }
  {
    // Without a rule of its own, it is as the scope around.
    const ModuleScope linear("body.0");
    EXPECT_EQ(product(), torch::kFloat);
    torch::nn::Linear stranger(6, 6);
    const ModuleScope of_another_tree(*stranger);
    EXPECT_EQ(product(), torch::kFloat);
  }
  EXPECT_EQ(product(), torch::kFloat);
}

// The owner of a parameter decides inside of its own scope's module, not where it is borrowed.
TEST_P(ModuleRules, ABorrowedWeightIsTheScopes) {
  auto policy = torch_list();
  policy.module("head", CastRule::float32).module("body\\..*", CastRule::lower_precision);
  policy.bind(*net);
  const Autocast autocast(region(policy));
  {
    const ModuleScope root(*net);
    EXPECT_EQ(head(), torch::kFloat);
  }
  const ModuleScope borrower("body.0");
  EXPECT_EQ(head(), kLow);
}

// The same layer at two paths, one of which has a rule.
TEST_P(ModuleRules, ASharedLayerTakesTheRuleOfEitherPath) {
  torch::nn::Linear shared(6, 6);
  torch::nn::Sequential tree(shared, shared);
  tree->to(device());
  const Autocast autocast(region(torch_list().module("1", CastRule::float32).bind(*tree)));
  EXPECT_EQ(shared->forward(x).scalar_type(), torch::kFloat);
  const ModuleScope first("0");
  EXPECT_EQ(shared->forward(x).scalar_type(), kLow);
}

TEST_P(ModuleRules, HoldInNestedRegionsUntilOneHasAPolicyOfItsOwn) {
  const Autocast outer(region(float32_head()));
  {
    const Autocast nested(region());
    EXPECT_EQ(head(), torch::kFloat);
    {
      const Autocast off(region().enabled(false));
      const Autocast on_again(region());
      EXPECT_EQ(head(), torch::kFloat);
    }
    const Autocast own(region(torch_list()));
    EXPECT_EQ(head(), kLow);
  }
  EXPECT_EQ(head(), torch::kFloat);
}

TEST_P(ModuleRules, HoldOnAutogradsThreads) {
  const Autocast autocast(region(float32_head()));
  c10::ScalarType layer{}, free{};
  const auto run = [&] {
    const auto thread = testing::DeepBackward::run([&] {
      layer = head();
      free = product();
    });
    EXPECT_NE(thread, std::this_thread::get_id());
  };
  run();
  EXPECT_EQ(layer, torch::kFloat);
  EXPECT_EQ(free, kLow);
  const ModuleScope scope("head");
  run();
  EXPECT_EQ(free, torch::kFloat);
}

TEST_P(ModuleRules, HoldOnThreadsThatPropagateCarriesThemTo) {
  const Autocast autocast(region(float32_head()));
  const ModuleScope scope("head");
  c10::ScalarType carried{}, layer{}, plain{};
  std::thread(propagate([&] {
    carried = product();
    layer = head();
  })).join();
  std::thread([&] {
    const Autocast own(region());
    plain = head();
  }).join();
  EXPECT_EQ(carried, torch::kFloat);
  EXPECT_EQ(layer, torch::kFloat);
  EXPECT_EQ(plain, kLow);
}

// The gradients are those of a net whose head is called in a disabled region.
TEST_P(ModuleRules, TrainAsADisabledRegionAroundTheModuleDoes) {
  const auto gradients = [&](const std::function<torch::Tensor()>& loss) {
    net->zero_grad();
    loss().backward();
    std::vector<torch::Tensor> all;
    for (const auto& parameter : net->parameters())
      if (parameter.grad().defined()) all.push_back(parameter.grad().clone());
    return all;
  };
  const auto expected = gradients([&] {
    const Autocast autocast(region());
    const auto hidden = net->body->forward(x);
    const Autocast off(region().enabled(false));
    return net->head->forward(hidden.to(torch::kFloat)).sum();
  });
  const auto policy = float32_head();
  const auto got = gradients([&] {
    const Autocast autocast(region(policy));
    return net->head->forward(net->body->forward(x)).sum();
  });
  ASSERT_EQ(got.size(), expected.size());
  ASSERT_EQ(got.size(), 6);
  for (size_t i = 0; i < got.size(); ++i) expect_same_bits(got[i], expected[i]);
}

TEST_P(ModuleRules, FollowParametersThatGetOtherMemory) {
  const auto policy = float32_head();
  for (auto& parameter : net->parameters()) parameter.set_data(parameter.detach().clone());
  const Autocast autocast(region(policy));
  EXPECT_EQ(head(), torch::kFloat);
  EXPECT_EQ(at::mm(x, net->head->weight.t()).scalar_type(), torch::kFloat);
  EXPECT_EQ(header(), kLow);
}

TEST_P(ModuleRules, TellWhichNeverMatched) {
  auto policy = torch_list();
  policy.module("head", CastRule::float32).module("body\\..*", CastRule::float32).bind(*net);
  EXPECT_THAT(policy.unmatched_modules(), ElementsAre("head", "body\\..*"));
  {
    const Autocast autocast(region(policy));
    head();
  }
  EXPECT_THAT(policy.unmatched_modules(), ElementsAre("body\\..*"));
  {
    const Autocast autocast(region(policy));
    const ModuleScope scope("body.1");
    product();
  }
  EXPECT_TRUE(policy.unmatched_modules().empty());
}

// A module that is gone leaves its rule to none that gets its address.
TEST_P(ModuleRules, KnowAModuleFromItsSuccessor) {
  alignas(torch::nn::LinearImpl) std::byte memory[sizeof(torch::nn::LinearImpl)];
  const auto make = [&] {
    return std::shared_ptr<torch::nn::LinearImpl>(new (memory) torch::nn::LinearImpl(6, 3),
                                                  [](auto* module) { std::destroy_at(module); });
  };
  torch::nn::Sequential tree((torch::nn::Linear(make())));
  const auto policy = torch_list().module("0", CastRule::float32).bind(*tree);
  const Autocast autocast(region(policy));
  {
    const ModuleScope scope(*tree->ptr(0));
    EXPECT_EQ(product(), torch::kFloat);
  }
  tree = nullptr;
  const auto successor = make();
  const ModuleScope scope(*successor);
  EXPECT_EQ(product(), kLow);
}

// In neither does anything of the other's tree count.
TEST_P(ModuleRules, AreOfOneTree) {
  RuledNet other;
  other->to(device());
  const Autocast autocast(region(float32_head()));
  EXPECT_EQ(other->head->forward(x).scalar_type(), kLow);
}

}  // namespace halfstep
