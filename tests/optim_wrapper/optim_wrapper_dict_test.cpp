// OptimWrapperDict: what MMEngine's tests of it hold, and what it does beyond that.
#include "halfstep/optim_wrapper/optim_wrapper_dict.h"

#include "halfstep/core/error.h"
#include "halfstep/optim_wrapper/amp_optim_wrapper.h"

#include <sstream>

#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include "tests/support/errors.h"
#include "tests/support/tolerance.h"

namespace halfstep::testing {

class OptimWrapperDictTest : public ::testing::Test {
 protected:
  using Sgd = torch::optim::SGD;
  using SgdOptions = torch::optim::SGDOptions;
  torch::nn::Linear model1{1, 1}, model2{1, 1};
  Sgd optim1{model1->parameters(), SgdOptions(0.1).momentum(0.8)};
  Sgd optim2{model2->parameters(), SgdOptions(0.2).momentum(0.9)};
  std::shared_ptr<OptimWrapper> wrapper1 = std::make_shared<OptimWrapper>(optim1);
  std::shared_ptr<OptimWrapper> wrapper2 = std::make_shared<OptimWrapper>(optim2);
  OptimWrapperDict dict{{"optim1", wrapper1}, {"optim2", wrapper2}};
  const at::Tensor x = torch::ones({1, 1});
};

TEST_F(OptimWrapperDictTest, RefusesWhatIsNoWrapper) {
  using Wrappers = std::vector<OptimWrapperDict::NamedWrapper>;
  const auto make = [](const Wrappers& wrappers) { OptimWrapperDict made(wrappers); };
  EXPECT_ERROR(make({}), UsageError, "[OptimWrapperDict]", "there must be wrappers, but got none");
  EXPECT_ERROR(make({{"optim1", nullptr}}), UsageError, "'optim1' is null");
  for (const char* name : {"", "a.b", "optim1"})
    EXPECT_ERROR(make({{"optim1", wrapper1}, {name, wrapper2}}), UsageError,
                 "a name of its own without a dot, but got '");
}

TEST_F(OptimWrapperDictTest, UpdateParamsIsCalledOfOne) {
  OptimWrapperBase& base = dict;
  EXPECT_ERROR(base.update_params(x.sum()), UsageError, "[OptimWrapperDict::update_params]",
               "update_params should be called of one wrapper", "'optim1', 'optim2'",
               "wrappers[\"optim1\"].update_params");
}

TEST_F(OptimWrapperDictTest, BackwardIsCalledOfOne) {
  EXPECT_ERROR(dict.backward(x.sum()), UsageError, "backward should be called of one wrapper");
}

TEST_F(OptimWrapperDictTest, StepIsCalledOfOne) {
  EXPECT_ERROR(dict.step(), UsageError, "step should be called of one wrapper");
}

TEST_F(OptimWrapperDictTest, OptimContextIsCalledOfOne) {
  EXPECT_ERROR(const auto context = dict.optim_context(*model1), UsageError,
               "optim_context should be called of one wrapper");
}

TEST_F(OptimWrapperDictTest, ZeroGradIsOfAll) {
  model1(x).sum().backward();
  model2(x).sum().backward();
  ASSERT_NE(model1->weight.grad().item<float>(), 0);
  ASSERT_NE(model2->weight.grad().item<float>(), 0);
  dict.zero_grad();
  EXPECT_FALSE(model1->weight.grad().defined());
  EXPECT_FALSE(model2->weight.grad().defined());
}

TEST_F(OptimWrapperDictTest, InitializeCountStatusDoesNothing) {
  dict.initialize_count_status(*model1, 1, 1);
  EXPECT_EQ(wrapper1->inner_count(), 0);
  EXPECT_EQ(wrapper1->max_counts(), -1);
}

TEST_F(OptimWrapperDictTest, ParamGroups) {
  EXPECT_EQ(dict.param_groups().at("optim1"), &optim1.param_groups());
  EXPECT_EQ(dict.param_groups().at("optim2"), &optim2.param_groups());
}

TEST_F(OptimWrapperDictTest, GetLr) {
  const auto rates = dict.get_lr();
  EXPECT_EQ(rates.keys(), (std::vector<std::string>{"optim1.lr", "optim2.lr"}));
  EXPECT_EQ(rates["optim1.lr"], std::vector<double>{0.1});
  EXPECT_EQ(rates["optim2.lr"], std::vector<double>{0.2});
}

TEST_F(OptimWrapperDictTest, GetMomentum) {
  const auto momenta = dict.get_momentum();
  EXPECT_EQ(momenta["optim1.momentum"], std::vector<double>{0.8});
  EXPECT_EQ(momenta["optim2.momentum"], std::vector<double>{0.9});
}

TEST_F(OptimWrapperDictTest, StateIsThatOfEach) {
  dict["optim1"].update_params(model1(x).sum());
  dict["optim2"].update_params(model2(x).sum());
  dict["optim2"].update_params(model2(x).sum());
  std::stringstream file;
  torch::save(dict, file);

  Sgd other1(model1->parameters(), SgdOptions(0.7).momentum(0.1));
  Sgd other2(model2->parameters(), SgdOptions(0.7).momentum(0.1));
  OptimWrapperDict loaded{{"optim1", std::make_shared<OptimWrapper>(other1)},
                          {"optim2", std::make_shared<OptimWrapper>(other2)}};
  torch::load(loaded, file);
  EXPECT_EQ(loaded.get_lr()["optim1.lr"], std::vector<double>{0.1});
  EXPECT_EQ(loaded.get_lr()["optim2.lr"], std::vector<double>{0.2});
  EXPECT_EQ(loaded["optim1"].inner_count(), 1);
  EXPECT_EQ(loaded["optim2"].inner_count(), 2);
  const auto momentum_of = [](Sgd& optimizer, const at::Tensor& parameter) {
    auto& state = optimizer.state().at(parameter.unsafeGetTensorImpl());
    return static_cast<torch::optim::SGDParamState&>(*state).momentum_buffer();
  };
  expect_same_bits(momentum_of(other2, model2->weight), momentum_of(optim2, model2->weight));
}

TEST_F(OptimWrapperDictTest, RefusesTheStateOfOthers) {
  std::stringstream file;
  torch::save(dict, file);
  OptimWrapperDict one{{"optim1", wrapper1}};
  OptimWrapperDict renamed{{"optim1", wrapper1}, {"generator", wrapper2}};
  for (auto* each : {&one, &renamed}) {
    file.clear();
    file.seekg(0);
    EXPECT_ERROR(torch::load(*each, file), UsageError, "[OptimWrapperDict::load]",
                 "must be of the same wrappers", "but is of 'optim1', 'optim2'");
  }
}

TEST_F(OptimWrapperDictTest, Items) {
  const auto items = dict.items();
  ASSERT_EQ(items.size(), 2U);
  EXPECT_EQ(items[0], OptimWrapperDict::NamedWrapper("optim1", wrapper1));
  EXPECT_EQ(items[1], OptimWrapperDict::NamedWrapper("optim2", wrapper2));
  EXPECT_EQ(dict.named_wrappers()[1].second, wrapper2.get());
}

TEST_F(OptimWrapperDictTest, Values) {
  EXPECT_EQ(dict.values(), (std::vector<std::shared_ptr<OptimWrapper>>{wrapper1, wrapper2}));
}

TEST_F(OptimWrapperDictTest, Keys) {
  EXPECT_EQ(dict.keys(), (std::vector<std::string>{"optim1", "optim2"}));
}

TEST_F(OptimWrapperDictTest, GetItem) {
  OptimWrapperBase& base = dict;
  EXPECT_EQ(&base["optim1"], wrapper1.get());
  EXPECT_EQ(&base["optim2"], wrapper2.get());
  EXPECT_ERROR(dict["optim3"], UsageError, "[OptimWrapperDict]",
               "must be one of 'optim1', 'optim2', but got 'optim3'", "did you mean");
}

TEST_F(OptimWrapperDictTest, Size) {
  EXPECT_EQ(dict.size(), 2U);
}

TEST_F(OptimWrapperDictTest, Contains) {
  EXPECT_TRUE(dict.contains("optim1"));
  EXPECT_FALSE(dict.contains("optim3"));
}

TEST_F(OptimWrapperDictTest, PrintsItself) {
  std::ostringstream text;
  text << dict;
  EXPECT_THAT(text.str(), ::testing::HasSubstr("name: optim1\nType: OptimWrapper\n"));
  EXPECT_THAT(text.str(), ::testing::HasSubstr("name: optim2\nType: OptimWrapper\n"));
}

// Each accumulates and scales by itself.
TEST_F(OptimWrapperDictTest, TrainsAPairOfModels) {
  auto generator = std::make_shared<AmpOptimWrapper>(
      optim1, AmpOptimWrapperOptions().dtype(torch::kHalf).accumulative_counts(2));
  auto critic = std::make_shared<AmpOptimWrapper>(
      optim2, AmpOptimWrapperOptions().dtype(torch::kHalf).loss_scale(64));
  OptimWrapperDict pair{{"generator", generator}, {"critic", critic}};
  const auto before = model1->weight.detach().clone();
  for (int iteration = 0; iteration < 2; ++iteration) {
    pair["critic"].zero_grad();  // of what the generator's loss left there
    torch::Tensor critic_loss, loss;
    {
      const auto context = pair["critic"].optim_context(*model2);
      critic_loss = model2(model1(x).detach()).to(torch::kFloat).sum();
    }
    EXPECT_TRUE(pair["critic"].update_params(critic_loss));
    {
      const auto context = pair["generator"].optim_context(*model1);
      loss = model2(model1(x)).to(torch::kFloat).sum() *
             (iteration == 0 ? std::numeric_limits<double>::infinity() : 1);
    }
    pair["generator"].update_params(loss);
  }
  EXPECT_EQ(generator->skipped_steps(), 1);
  EXPECT_EQ(generator->get_scale(), 32768);
  expect_same_bits(model1->weight, before);
  EXPECT_EQ(critic->skipped_steps(), 0);
  EXPECT_EQ(critic->get_scale(), 64);
}

}  // namespace halfstep::testing
