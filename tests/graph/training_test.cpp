// What a graph does around its build: loss scale, optimizers, schedules, accumulation, files.
#include "halfstep/autocast.h"
#include "halfstep/core.h"
#include "halfstep/graph.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <limits>
#include <map>
#include <optional>
#include <sstream>

#include <torch/autograd.h>
#include <torch/serialize.h>

#include "tests/graph/steps.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/thread_count.h"
#include <gtest/gtest.h>

namespace {

using halfstep::GradScaler;
using halfstep::GradScalerOptions;
using halfstep::Graph;
using halfstep::UsageError;
using halfstep::optim::Adam;
using halfstep::optim::AdamOptions;
using halfstep::optim::LRScheduler;
using halfstep::optim::SGD;
using halfstep::optim::SGDOptions;
using halfstep::testing::Mlp;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using torch::Tensor;

struct TrainingStep : Graph<Tensor(Tensor)> {
  explicit TrainingStep(Mlp its_net) : net(register_module("net", its_net)) {}
  Tensor build(const Tensor& x) override {
    const auto loss = net->forward(x).square().mean();
    loss.backward();
    return loss;
  }
  Mlp net;
};

class GraphTraining : public halfstep::testing::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped()) return;
    torch::manual_seed(2);
    for (int i = 0; i < 8; ++i) inputs.push_back(torch::randn({8, 12}, device()));
  }
  /// With the same weights at each call.
  Mlp mlp() const {
    torch::manual_seed(1);
    Mlp net;
    net->to(device());
    return net;
  }
  GradScalerOptions scaling(double scale) const {
    return GradScalerOptions(device().type()).init_scale(scale).growth_interval(2);
  }

  std::vector<Tensor> inputs;

 private:
  halfstep::testing::ThreadCount one_thread_{1};
};

TEST_P(GraphTraining, ADynamicScaleSkipsFallsAndGrowsAsInEagerCode) {
  const auto bad = inputs[4].clone().fill_(std::numeric_limits<float>::infinity());
  inputs[4] = bad;
  std::vector<double> scales;
  auto net = mlp();
  {
    Adam adam(net->parameters(), AdamOptions(1e-2));
    GradScaler scaler(scaling(1024));
    for (const auto& x : inputs) {
      scaler.scale(net->forward(x).square().mean()).backward();
      scaler.step(adam);
      scaler.update();
      adam.zero_grad();
      scales.push_back(scaler.get_scale());
    }
  }
  TrainingStep train(mlp());
  Adam adam(train.net->parameters(), AdamOptions(1e-2));
  LRScheduler schedule(adam, halfstep::optim::step_lr(100));
  GradScaler scaler(scaling(1024));
  train.add_optimizer(adam, schedule);
  train.set_grad_scaler(scaler);
  for (size_t i = 0; i < inputs.size(); ++i) {
    train(inputs[i]);
    EXPECT_EQ(scaler.get_scale(), scales[i]) << "step " << i;
  }
  EXPECT_TRUE(same_bits(state_of(*net), state_of(*train.net)));
  EXPECT_EQ(train.replayed_steps(), 6);
  EXPECT_EQ(scaler.overflows().skipped_steps, 1);
  EXPECT_EQ(schedule.steps(), 7) << "a skipped step must not advance the schedule";
  EXPECT_LT(*std::min_element(scales.begin(), scales.end()),
            *std::max_element(scales.begin(), scales.end()));
}

// As GradScaler::diagnosis advises: go on without a scale.
TEST_P(GraphTraining, AScalerThatIsReplacedByADisabledOneScalesNoMore) {
  auto net = mlp();
  SGD eager(net->parameters(), SGDOptions(1e-2));
  TrainingStep train(mlp());
  SGD sgd(train.net->parameters(), SGDOptions(1e-2));
  GradScaler scaler(scaling(1024));
  train.add_optimizer(sgd);
  train.set_grad_scaler(scaler);
  std::vector<Tensor> held;  // so that the scale's tensor does not look dropped
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (i == 4) {
      held.assign(4, scaler.get_scale_async());
      scaler = GradScaler(GradScalerOptions(device().type()).enabled(false));
    }
    if (i == 6) scaler = GradScaler(scaling(64));
    net->forward(inputs[i]).square().mean().backward();
    eager.step();
    eager.zero_grad();
    train(inputs[i]);
    EXPECT_TRUE(same_bits(state_of(*net), state_of(*train.net))) << i;  // powers of two
  }
  EXPECT_EQ(train.recorded_steps(), 6);
  EXPECT_EQ(train.replayed_steps(), 2);
}

TEST_P(GraphTraining, AFloat16LossIsScaledThoughLossTimesScaleOverflows) {
  struct Low : Graph<Tensor(Tensor)> {
    explicit Low(const Tensor& its_weight) : weight(register_parameter("weight", its_weight)) {}
    Tensor build(const Tensor& x) override {
      const auto loss = (weight * x).sum();  // float16: 12 × 8192 is inf
      loss.backward();
      return loss;
    }
    Tensor weight;
  } graph(torch::ones({3}, at::TensorOptions(device()).dtype(torch::kHalf)));
  GradScaler scaler(scaling(8192).growth_interval(100));
  SGD sgd({graph.weight}, SGDOptions(0.25));
  graph.add_optimizer(sgd);
  graph.set_grad_scaler(scaler);
  const auto x = torch::full({3}, 4, at::TensorOptions(device()).dtype(torch::kHalf));
  for (int i = 0; i < 4; ++i) graph(x);
  EXPECT_EQ(scaler.get_scale(), 8192);
  EXPECT_EQ(graph.weight[0].item<float>(), 1 - 4 * 0.25f * 4);
}

TEST_P(GraphTraining, AStaticScale) {
  TrainingStep train(mlp());
  GradScaler scaler(halfstep::dialects::oneflow_static(128));
  Adam adam(train.net->parameters(), AdamOptions(1e-2));
  train.add_optimizer(adam);
  train.set_grad_scaler(scaler);
  auto net = mlp();
  Adam other(net->parameters(), AdamOptions(1e-2));
  for (const auto& x : inputs) {
    train(x);
    net->forward(x).square().mean().backward();
    other.step();
    other.zero_grad();
  }
  EXPECT_EQ(scaler.get_scale(), 128);
  EXPECT_TRUE(same_bits(state_of(*net), state_of(*train.net)));  // a power of two rounds nothing
}

TEST_P(GraphTraining, RateScaleAndScheduleNeedNoNewRecording) {
  TrainingStep train(mlp());
  auto net = mlp();
  SGD sgd(train.net->parameters(), SGDOptions(0.5)), other(net->parameters(), SGDOptions(0.5));
  GradScaler scaler(scaling(4).growth_interval(1000));
  LRScheduler schedule(sgd, halfstep::optim::exponential_lr(0.5));
  train.add_optimizer(sgd, schedule);
  train.set_grad_scaler(scaler);
  double rate = 0.5;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (i == 5) scaler.update(64.0);
    train(inputs[i]);
    static_cast<SGDOptions&>(other.param_groups()[0].options()).lr(rate);
    rate /= 2;
    net->forward(inputs[i]).square().mean().backward();
    other.step();
    other.zero_grad();
  }
  EXPECT_EQ(train.recorded_steps(), 2) << train.last_reason();
  EXPECT_TRUE(same_bits(state_of(*net), state_of(*train.net)));
}

TEST_P(GraphTraining, AccumulationAveragesThePartsOfABatch) {
  TrainingStep train(mlp());
  auto net = mlp();
  SGD sgd(train.net->parameters(), SGDOptions(0.1).momentum(0.9)),
      other(net->parameters(), SGDOptions(0.1).momentum(0.9));
  train.add_optimizer(sgd);
  train.config().set_gradient_accumulation_steps(4);
  for (const auto& x : inputs) {
    const auto losses = train(x);
    std::vector<Tensor> expected;
    for (int part = 0; part < 4; ++part) {
      const auto loss = net->forward(x.narrow(0, part * 2, 2)).square().mean();
      (loss * 0.25).backward();
      expected.push_back(loss.detach());
    }
    other.step();
    other.zero_grad();
    EXPECT_TRUE(same_bits({torch::stack(expected)}, {losses}));
  }
  EXPECT_TRUE(same_bits(state_of(*net), state_of(*train.net)));
  EXPECT_EQ(train.recorded_steps(), 2);
  train.config().set_gradient_accumulation_steps(2);
  train(inputs[0]);
  EXPECT_EQ(train.last_reason(), "there is no recording yet");
  EXPECT_ERROR(train(inputs[0].narrow(0, 0, 3)), UsageError, "must be a multiple of 2", "[3, 12]");
}

TEST_P(GraphTraining, AccumulatedGradientsAreClippedOnce) {
  using halfstep::optim::Adam;
  const auto options = halfstep::optim::AdamOptions(0.1).clip_norm(0.05);
  TrainingStep train(mlp());
  auto net = mlp();
  Adam adam(train.net->parameters(), options), other(net->parameters(), options);
  train.add_optimizer(adam);
  train.config().set_gradient_accumulation_steps(2);
  for (const auto& x : inputs) {
    train(x);
    for (int part = 0; part < 2; ++part)
      (net->forward(x.narrow(0, part * 4, 4)).square().mean() * 0.5).backward();
    Tensor squares = torch::zeros({}, device());
    for (const auto& parameter : net->parameters()) squares += parameter.grad().square().sum();
    EXPECT_GT(squares.sqrt().item<double>(), 0.05) << "nothing is clipped";
    other.step();
    other.zero_grad();
  }
  EXPECT_TRUE(same_bits(state_of(*net), state_of(*train.net)));
  EXPECT_EQ(train.recorded_steps(), 2);
}

TEST_P(GraphTraining, SeveralOptimizersAndLosses) {
  struct Two : Graph<std::pair<Tensor, Tensor>(Tensor)> {
    Two(Mlp a, Mlp b) : first(register_module("first", a)), second(register_module("second", b)) {}
    std::pair<Tensor, Tensor> build(const Tensor& x) override {
      const auto loss = first->forward(x).square().mean(), other = second->forward(x).abs().mean();
      loss.backward();
      other.backward();
      return {loss, other};
    }
    Mlp first, second;
  } graph(mlp(), mlp());
  auto a = mlp(), b = mlp();
  Adam adam(graph.first->parameters()), adam_a(a->parameters());
  SGD sgd(graph.second->parameters(), SGDOptions(0.1)), sgd_b(b->parameters(), SGDOptions(0.1));
  graph.add_optimizer(adam);
  graph.add_optimizer(sgd);
  for (const auto& x : inputs) {
    const auto [first, second] = graph(x);
    const auto loss = a->forward(x).square().mean(), other = b->forward(x).abs().mean();
    loss.backward();
    other.backward();
    adam_a.step();
    sgd_b.step();
    adam_a.zero_grad();
    sgd_b.zero_grad();
    EXPECT_TRUE(same_bits({loss.detach(), other.detach()}, {first, second}));
  }
  EXPECT_TRUE(same_bits(state_of(*a), state_of(*graph.first)));
  EXPECT_TRUE(same_bits(state_of(*b), state_of(*graph.second)));
}

TEST_P(GraphTraining, NestedInputsAndOutputs) {
  using Named = std::map<std::string, std::vector<Tensor>>;
  struct Nested : Graph<Named(Named, std::optional<Tensor>)> {
    Named build(const Named& in, const std::optional<Tensor>& more) override {
      Named out;
      for (const auto& [name, list] : in) {
        for (const auto& x : list) out[name].push_back(more ? x + *more : x * 2);
      }
      return out;
    }
  } graph;
  const Named in = {{"a", {inputs[0], inputs[1]}}, {"b", {inputs[2]}}};
  for (int i = 0; i < 4; ++i) {
    const auto out = graph(in, std::nullopt);
    EXPECT_TRUE(same_bits({inputs[0] * 2, inputs[1] * 2, inputs[2] * 2},
                          {out.at("a").at(0), out.at("a").at(1), out.at("b").at(0)}));
  }
  const auto out = graph(in, inputs[3]);
  EXPECT_TRUE(same_bits({inputs[2] + inputs[3]}, {out.at("b").at(0)}));
  EXPECT_EQ(graph.last_reason(), "there are 4 input tensors, not 3");
  EXPECT_EQ(graph({{"c", {inputs[0], inputs[1]}}, {"b", {inputs[2]}}}, std::nullopt).count("c"),
            1U);
  EXPECT_EQ(graph(in, std::nullopt).count("c"), 0U);
}

TEST_P(GraphTraining, AFileGoesOnAsTheRunWouldHave) {
  const auto make = [&](auto&& run) {
    TrainingStep train(mlp());
    Adam adam(train.net->parameters(), AdamOptions(1e-2));
    LRScheduler schedule(adam, halfstep::optim::exponential_lr(0.9));
    GradScaler scaler(scaling(256));
    train.add_optimizer(adam, schedule);
    train.set_grad_scaler(scaler);
    run(train);
    auto state = state_of(*train.net);
    state.push_back(torch::full({}, scaler.get_scale(), torch::kDouble));
    return state;
  };
  std::stringstream file;
  const auto unbroken = make([&](TrainingStep& train) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (i == 5) {
        torch::serialize::OutputArchive archive;
        train.save(archive);
        archive.save_to(file);
      }
      train(inputs[i]);
    }
  });
  for (const bool after_a_call : {false, true}) {
    file.clear();
    file.seekg(0);
    const auto resumed = make([&](TrainingStep& train) {
      if (after_a_call) {
        for (int i = 0; i < 3; ++i) train(inputs[i]);
      }
      torch::serialize::InputArchive archive;
      archive.load_from(file);
      train.load(archive);
      for (size_t i = 5; i < inputs.size(); ++i) train(inputs[i]);
    });
    EXPECT_TRUE(same_bits(unbroken, resumed)) << after_a_call;
  }
}

TEST_P(GraphTraining, AmpCastsTheForwardAndItsBackwardRunsOutside) {
  TrainingStep train(mlp());
  train.config().enable_amp(true, torch::kBFloat16);
  for (int i = 0; i < 3; ++i) train(inputs[i]);
  auto net = mlp();
  for (int i = 0; i < 3; ++i) {
    Tensor loss;
    {
      const halfstep::Autocast autocast(
          halfstep::AutocastOptions(device().type()).dtype(torch::kBFloat16));
      loss = net->forward(inputs[i]).square().mean();
    }
    loss.backward();
  }
  EXPECT_TRUE(same_bits({net->first->weight.grad()}, {train.net->first->weight.grad()}));
  EXPECT_NE(train.program().find("bfloat16[8, 16]"), std::string::npos) << "nothing was cast";
  train.config().enable_amp(false);
  train(inputs[0]);
  EXPECT_EQ(train.program().find("bfloat16"), std::string::npos);
  EXPECT_ERROR(train.config().enable_amp(true, torch::kFloat), UsageError, "[GraphConfig]",
               "float16 or bfloat16, but got float32");
}

TEST_P(GraphTraining, APolicyHoldsInTheRecording) {
  TrainingStep train(mlp());
  auto policy = halfstep::OpPolicy::torch(device().type());
  policy.set("linear", halfstep::CastRule::float32);
  train.config().enable_amp(true, torch::kBFloat16).policy(policy);
  for (int i = 0; i < 3; ++i) train(inputs[i]);
  EXPECT_EQ(train.replayed_steps(), 1);
  EXPECT_EQ(train.program().find("bfloat16"), std::string::npos) << train.program();
}

TEST_P(GraphTraining, ARehearsalIsReplayed) {
  if (!device().is_cpu()) GTEST_SKIP() << "a rehearsal is for the CPU";
  const halfstep::HalfRehearsal rehearsal;
  TrainingStep train(mlp());
  train.config().enable_amp(true, torch::kHalf);
  train(inputs[0]);
  train(inputs[0]);
  const auto before = halfstep::HalfRehearsal::uses();
  train(inputs[0]);
  EXPECT_GE(halfstep::HalfRehearsal::uses() - before, 4);  // two products, and their backward
  EXPECT_EQ(train.replayed_steps(), 1);
}

TEST_P(GraphTraining, DebugTellsWhatIsRecordedAndWhy) {
  TrainingStep train(mlp());
  std::ostringstream out;
  train.debug(1, out);
  for (int i = 0; i < 3; ++i) train(inputs[i]);
  const auto text = out.str();
  for (const char* part :
       {"[Graph] records a step: there is no recording yet",
        "[Graph] records a step: to compare it with the first recording",
        "input input 0  float32[8, 12]", "reads net.first.weight  float32[16, 12]", "forward\n",
        "addmm(", "relu", "backward\n", "output 0 is %", "4 gradients"})
    EXPECT_THAT(text, ::testing::HasSubstr(part));
  EXPECT_ERROR(train.debug(4, out), UsageError, "from -1 to 3, but got 4");
}

TEST_P(GraphTraining, ADirectBackwardUnderAScalerIsAnError) {
  struct Direct : TrainingStep {
    using TrainingStep::TrainingStep;
    Tensor build(const Tensor& x) override {
      const auto loss = net->forward(x).sum();
      torch::autograd::backward({loss});
      return loss;
    }
  } graph(mlp());
  GradScaler scaler(scaling(16));
  graph.set_grad_scaler(scaler);
  EXPECT_ERROR(graph(inputs[0]), UsageError, "with a scaler build must call loss.backward()");
  struct Wide : TrainingStep {
    using TrainingStep::TrainingStep;
    Tensor build(const Tensor& x) override {
      net->forward(x).backward();
      return x;
    }
  } wide(mlp());
  EXPECT_ERROR(wide(inputs[0]), UsageError, "backward() on a scalar, but got a tensor of [8, 4]");
}

HALFSTEP_ON_EACH_DEVICE(GraphTraining);

}  // namespace
