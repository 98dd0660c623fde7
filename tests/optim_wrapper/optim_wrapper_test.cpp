// OptimWrapper: what MMEngine's tests of it hold, and what it does beyond that.
#include "halfstep/optim_wrapper/optim_wrapper.h"

#include "halfstep/core/error.h"
#include "halfstep/optim/clip_grad.h"
#include "halfstep/optim/lr_scheduler.h"
#include "halfstep/optim/sgd.h"

#include <sstream>

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/instancenorm.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/sgd.h>

#include "tests/optim_wrapper/toy_model.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/tolerance.h"
#include "tests/support/warnings.h"

namespace halfstep::testing {

namespace {

const torch::Tensor one = torch::ones({});

double gradient_of(const ToyModel& model) {
  const auto& gradient = model->conv2->bias.grad();
  return gradient.defined() ? gradient.item<double>() : 0;
}

/// Its bias's gradient is 1 over the factor of scale_loss.
torch::Tensor loss_of(ToyModel& model) {
  return model->forward(torch::ones({1, 1, 1, 1})).sum();
}

}  // namespace

class OptimWrapperTest : public ::testing::Test {
 protected:
  ToyModel model;
  torch::optim::SGD optimizer{model->parameters(), 0.1};
};

TEST_F(OptimWrapperTest, Init) {
  OptimWrapper wrapper(optimizer);
  EXPECT_EQ(&wrapper.optimizer(), &optimizer);
  EXPECT_FALSE(wrapper.options().clip_grad());
  EXPECT_EQ(wrapper.accumulative_counts(), 1);
  EXPECT_EQ(wrapper.inner_count(), 0);
  EXPECT_EQ(wrapper.max_counts(), -1);
  EXPECT_EQ(wrapper.remainder_counts(), -1);
  EXPECT_FALSE(wrapper.grad_norm().defined());
}

TEST_F(OptimWrapperTest, RefusesWhatItCantDo) {
  using Options = OptimWrapperOptions;
  const auto make = [&](const Options& options) { OptimWrapper wrapper(optimizer, options); };
  EXPECT_ERROR(make(Options().accumulative_counts(0)), UsageError, "[OptimWrapper]",
               "accumulative_counts must be at least 1, but got 0");
  EXPECT_ERROR(make(Options().clip_grad(ClipGrad::norm(-1))), UsageError,
               "max_norm must be at least 0, but got -1");
  EXPECT_ERROR(make(Options().clip_grad(ClipGrad::value(-1))), UsageError,
               "clip_value must be at least 0, but got -1");
  EXPECT_ERROR(make(Options().clip_grad(ClipGrad::norm(1, 0))), UsageError,
               "norm_type must be above 0, but got 0");
  EXPECT_ERROR(OptimWrapper(std::shared_ptr<torch::optim::Optimizer>()), UsageError,
               "the optimizer must be one, but got null");
  torch::optim::LBFGS lbfgs(model->parameters());
  EXPECT_ERROR((OptimWrapper(lbfgs)), UsageError, "must step without a closure, but got LBFGS");
  optim::SGD clipping(model->parameters(), optim::SGDOptions(0.1).clip_norm(1));
  EXPECT_ERROR(OptimWrapper(clipping, Options().clip_grad(ClipGrad::norm(1))), UsageError,
               "clipped in one place, but got clip_grad for an optimizer with clip_norm");
}

TEST_F(OptimWrapperTest, KeepsAnOptimizerItOwns) {
  auto owned = std::make_shared<torch::optim::SGD>(model->parameters(), 0.1);
  const std::weak_ptr<torch::optim::Optimizer> alive = owned;
  {
    const OptimWrapper wrapper(std::move(owned));
    EXPECT_FALSE(alive.expired());
  }
  EXPECT_TRUE(alive.expired());
}

TEST_F(OptimWrapperTest, UpdatesParamsInEveryIteration) {
  OptimWrapper wrapper(optimizer);
  EXPECT_EQ(wrapper.scale_loss(one).item<float>(), 1);
  const auto before = copies(*model);
  const auto result = wrapper.update_params(loss_of(model));
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->is_known());
  EXPECT_TRUE(result->stepped());
  EXPECT_EQ(gradient_of(model), 0);
  expect_same_bits(model->conv2->bias, before[3] - 0.1 * torch::ones({1}));
}

TEST_F(OptimWrapperTest, AccumulatesAndStepsAtTheLastIteration) {
  OptimWrapper wrapper(optimizer, OptimWrapperOptions().accumulative_counts(3));
  EXPECT_EQ(wrapper.scale_loss(one).item<float>(), 1.0F / 3);
  const auto before = copies(*model);
  EXPECT_FALSE(wrapper.update_params(loss_of(model)));
  EXPECT_FLOAT_EQ(gradient_of(model), 1.0 / 3);
  EXPECT_FALSE(wrapper.update_params(loss_of(model)));
  EXPECT_EQ(wrapper.inner_count(), 2);
  EXPECT_TRUE(wrapper.is_accumulating());
  for (size_t i = 0; i < before.size(); ++i) expect_same_bits(model->parameters()[i], before[i]);
  EXPECT_TRUE(wrapper.update_params(loss_of(model)));
  EXPECT_FALSE(wrapper.is_accumulating());
  EXPECT_EQ(gradient_of(model), 0);

  // Nobody said that the 100th is the last one.
  wrapper.set_inner_count(99);
  EXPECT_FALSE(wrapper.update_params(loss_of(model)));
  EXPECT_FLOAT_EQ(gradient_of(model), 1.0 / 3);
  wrapper.zero_grad();

  wrapper.initialize_count_status(*model, 99, 100);
  EXPECT_EQ(wrapper.scale_loss(one).item<float>(), 1);
  EXPECT_TRUE(wrapper.update_params(loss_of(model)));

  wrapper.initialize_count_status(*model, 96, 100);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(wrapper.scale_loss(one).item<float>(), 1.0F / 3);
    EXPECT_FALSE(wrapper.update_params(loss_of(model)));
  }
}

TEST_F(OptimWrapperTest, InitializesTheCountAndWarns) {
  const OptimWrapperOptions thirds = OptimWrapperOptions().accumulative_counts(3);
  OptimWrapper wrapper(optimizer, thirds);
  const Warnings warnings;
  wrapper.initialize_count_status(*model, 0, 100);
  EXPECT_EQ(wrapper.remainder_counts(), 1);
  EXPECT_EQ(warnings.messages.size(), 0U);

  wrapper.initialize_count_status(*model, 2, 100);
  ASSERT_EQ(warnings.messages.size(), 1U);
  EXPECT_THAT(warnings.messages[0],
              ::testing::HasSubstr("init_counts 2 is no multiple of accumulative_counts 3"));

  const torch::nn::Sequential with_norm(torch::nn::Linear(3, 2), torch::nn::BatchNorm1d(2));
  wrapper.initialize_count_status(*with_norm, 0, 99);
  ASSERT_EQ(warnings.messages.size(), 2U);
  EXPECT_THAT(warnings.messages[1], ::testing::HasSubstr("the model normalises over batches"));

  const torch::nn::InstanceNorm2d without_statistics(2);
  wrapper.initialize_count_status(*without_statistics, 0, 99);
  EXPECT_EQ(warnings.messages.size(), 2U);
  OptimWrapper(optimizer).initialize_count_status(*with_norm, 2, 99);
  EXPECT_EQ(warnings.messages.size(), 2U);
}

TEST_F(OptimWrapperTest, RefusesCountsPastTheEnd) {
  OptimWrapper wrapper(optimizer, OptimWrapperOptions().accumulative_counts(2));
  EXPECT_ERROR(wrapper.initialize_count_status(*model, 5, 4), UsageError,
               "[OptimWrapper::initialize_count_status]", "init_counts 5 and max_counts 4");
  wrapper.initialize_count_status(*model, 0, 2);
  for (int i = 0; i < 2; ++i) wrapper.update_params(loss_of(model));
  EXPECT_ERROR(wrapper.update_params(loss_of(model)), UsageError, "[OptimWrapper::scale_loss]",
               "must end at the max_counts 2", "but this is number 3");
  EXPECT_EQ(wrapper.inner_count(), 2);
}

TEST_F(OptimWrapperTest, GetLr) {
  OptimWrapper wrapper(optimizer);
  const auto rates = wrapper.get_lr();
  EXPECT_EQ(rates.size(), 1U);
  EXPECT_EQ(rates["lr"], std::vector<double>{0.1});
  EXPECT_EQ(wrapper.base_settings(), nullptr);
}

TEST_F(OptimWrapperTest, GetLrOfSeveralGroupsShowsTheirBase) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(model->conv1->parameters(), std::make_unique<optim::SGDOptions>(0.4));
  groups.emplace_back(model->conv2->parameters());
  optim::SGD grouped(groups, optim::SGDOptions(0.2));
  OptimWrapper wrapper(grouped);
  optim::LRScheduler scheduler(grouped, optim::step_lr(1, 0.5));
  scheduler.also_set(*wrapper.base_settings());
  EXPECT_EQ(wrapper.get_lr()["lr"], (std::vector<double>{0.4, 0.2}));
  EXPECT_EQ(wrapper.get_lr()["base_lr"], std::vector<double>{0.2});
  scheduler.step();
  EXPECT_EQ(wrapper.get_lr()["lr"], (std::vector<double>{0.2, 0.1}));
  EXPECT_EQ(wrapper.get_lr()["base_lr"], std::vector<double>{0.1});
}

TEST_F(OptimWrapperTest, GetMomentum) {
  torch::optim::SGD sgd(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.8));
  EXPECT_EQ(OptimWrapper(sgd).get_momentum()["momentum"], std::vector<double>{0.8});
  torch::optim::Adam adam(model->parameters(), torch::optim::AdamOptions(0.1).betas({0.7, 0.9}));
  EXPECT_EQ(OptimWrapper(adam).get_momentum()["momentum"], std::vector<double>{0.7});
  torch::optim::Adagrad adagrad(model->parameters());
  EXPECT_EQ(OptimWrapper(adagrad).get_momentum()["momentum"], std::vector<double>{0});
}

TEST_F(OptimWrapperTest, BackwardStepAndZeroGradAreTheOptimizers) {
  OptimWrapper wrapper(optimizer);
  wrapper.backward(loss_of(model));
  EXPECT_EQ(gradient_of(model), 1);
  EXPECT_EQ(wrapper.inner_count(), 1);
  const auto before = copies(*model);
  EXPECT_TRUE(wrapper.step().stepped());
  expect_same_bits(model->conv2->bias, before[3] - 0.1 * torch::ones({1}));
  EXPECT_EQ(gradient_of(model), 1);
  wrapper.zero_grad();
  EXPECT_FALSE(model->conv2->bias.grad().defined());
}

TEST_F(OptimWrapperTest, ParamGroupsAreTheOptimizers) {
  OptimWrapper wrapper(optimizer);
  EXPECT_EQ(&wrapper.param_groups(), &optimizer.param_groups());
}

TEST_F(OptimWrapperTest, ObserversSeeTheStepBeforeAndAfterIt) {
  OptimWrapper wrapper(
      optimizer, OptimWrapperOptions().accumulative_counts(2).clip_grad(ClipGrad::value(0.25)));
  std::vector<std::string> events;
  const auto before = copies(*model);
  wrapper.before_step([&] {
    events.emplace_back("before");
    EXPECT_FLOAT_EQ(gradient_of(model), 1);
    expect_same_bits(model->conv2->bias, before[3]);
  });
  wrapper.after_step([&](const StepResult& result) {
    events.emplace_back(result.stepped() ? "stepped" : "skipped");
    EXPECT_FLOAT_EQ(gradient_of(model), 0.25);
  });
  wrapper.update_params(loss_of(model));
  EXPECT_TRUE(events.empty());
  wrapper.update_params(loss_of(model));
  EXPECT_EQ(events, (std::vector<std::string>{"before", "stepped"}));

  wrapper.before_step([] { throw UsageError("[loop] not now"); });
  wrapper.update_params(loss_of(model));
  const auto unstepped = copies(*model);
  EXPECT_ERROR(wrapper.update_params(loss_of(model)), UsageError, "[loop] not now");
  for (size_t i = 0; i < before.size(); ++i) expect_same_bits(model->parameters()[i], unstepped[i]);
  wrapper.before_step({});
  wrapper.after_step({});
  EXPECT_TRUE(wrapper.step().stepped());
}

TEST_F(OptimWrapperTest, SchedulesStandStillWhileGradientsAccumulate) {
  OptimWrapper wrapper(optimizer, OptimWrapperOptions().accumulative_counts(3));
  optim::LRScheduler scheduler(optimizer, optim::step_lr(1, 0.5));
  for (int i = 0; i < 7; ++i)
    if (const auto result = wrapper.update_params(loss_of(model))) scheduler.step(*result);
  EXPECT_EQ(scheduler.steps(), 2);
  EXPECT_EQ(wrapper.get_lr()["lr"], std::vector<double>{0.1 * 0.25});
}

TEST_F(OptimWrapperTest, StandsAloneWithoutAName) {
  OptimWrapper wrapper(optimizer);
  OptimWrapperBase& base = wrapper;
  EXPECT_ERROR(base["generator"], UsageError, "[OptimWrapper]",
               "this one stands alone and got 'generator'", "OptimWrapperConstructor");
  ASSERT_EQ(base.named_wrappers().size(), 1U);
  EXPECT_EQ(base.named_wrappers()[0].first, "");
  EXPECT_EQ(base.named_wrappers()[0].second, &wrapper);
}

TEST_F(OptimWrapperTest, PrintsItself) {
  std::ostringstream text;
  text << OptimWrapper(
      optimizer, OptimWrapperOptions().accumulative_counts(8).clip_grad(ClipGrad::norm(35, 1)));
  EXPECT_EQ(text.str(),
            "Type: OptimWrapper\naccumulative_counts: 8\nclip_grad: norm 35 (1-norm)\n"
            "optimizer: torch::optim::SGD\n  group 0: 4 parameters, lr 0.1, momentum 0\n");
}

namespace {

/// A replica of one of two ranks: its gradients are averaged with the other's after a backward that
/// belongs to a forward with requires_sync(), as a DistributedDataParallel does.
struct Replica : torch::nn::Module, GradientSync {
  torch::nn::Conv2d conv = register_module("conv", torch::nn::Conv2d(1, 1, 1));
  bool exchanges = true;
  at::Tensor forward(const at::Tensor& x) {
    exchanges = requires_sync();
    return conv(x);
  }
};

void exchange(Replica& first, Replica& second) {
  ASSERT_EQ(first.exchanges, second.exchanges);
  if (!first.exchanges) return;
  auto& here = first.conv->weight.mutable_grad();
  auto& there = second.conv->weight.mutable_grad();
  here = (here + there) / 2;
  there = here.clone();
}

}  // namespace

TEST(OptimContextTest, HoldsGradientsBackUntilTheStep) {
  Replica ranks[2];
  std::vector<std::unique_ptr<OptimWrapper>> wrappers;
  std::vector<std::unique_ptr<torch::optim::SGD>> optimizers;
  for (auto& rank : ranks)
    optimizers.push_back(std::make_unique<torch::optim::SGD>(rank.parameters(), 0.01));
  const auto run = [&](int64_t counts, int64_t init_counts) {
    const Warnings quiet;
    for (int i = 0; i < 2; ++i) {
      OptimWrapper wrapper(*optimizers[i], OptimWrapperOptions().accumulative_counts(counts));
      wrapper.initialize_count_status(ranks[i], init_counts, 100);
      at::Tensor loss;
      {
        const auto context = wrapper.optim_context(ranks[i]);
        loss = ranks[i].forward(torch::full({1, 1, 1, 1}, 1.0 + i)).sum();
      }
      EXPECT_TRUE(ranks[i].requires_sync());  // as it was before
      loss.backward();
    }
    exchange(ranks[0], ranks[1]);
    return torch::equal(ranks[0].conv->weight.grad(), ranks[1].conv->weight.grad());
  };
  EXPECT_TRUE(run(1, 0));
  EXPECT_FALSE(run(3, 0));
  EXPECT_FALSE(run(3, 1));
  EXPECT_TRUE(run(3, 2));
  EXPECT_TRUE(run(3, 99));  // the last of 100

  // A region around that holds them back already.
  ranks[0].set_requires_sync(false);
  {
    OptimWrapper wrapper(*optimizers[0], OptimWrapperOptions().accumulative_counts(2));
    const auto context = wrapper.optim_context(ranks[0]);
  }
  EXPECT_FALSE(ranks[0].requires_sync());
}

}  // namespace halfstep::testing
