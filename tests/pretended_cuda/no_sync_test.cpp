// That steps never wait for the device: counted on the pretended one.
#include "halfstep/autocast.h"
#include "halfstep/graph.h"
#include "halfstep/optim.h"
#include "halfstep/scaling.h"

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <torch/nn.h>
#include <torch/utils.h>

#include "tests/graph/step_test.h"
#include "tests/pretended_cuda/pretended_cuda.h"
#include <gtest/gtest.h>

namespace {

namespace optim = halfstep::optim;
using halfstep::testing::Mlp;
using halfstep::testing::pretended_launches;
using halfstep::testing::pretended_syncs;
using halfstep::testing::Step;
using torch::Tensor;

using OptimizerPtr = std::unique_ptr<torch::optim::Optimizer>;

std::vector<std::pair<std::string, OptimizerPtr>> fused_optimizers(
    const std::vector<Tensor>& parameters) {
  std::vector<std::pair<std::string, OptimizerPtr>> all;
  all.emplace_back("Adam", std::make_unique<optim::Adam>(
                               parameters, optim::AdamOptions(1e-2).clip_norm(1).capturable()));
  all.emplace_back("AdamW", std::make_unique<optim::AdamW>(
                                parameters, optim::AdamWOptions(1e-2).clip_value(1).capturable()));
  all.emplace_back("SGD", std::make_unique<optim::SGD>(
                              parameters, optim::SGDOptions(1e-2).momentum(0.9).capturable()));
  all.emplace_back("Adagrad", std::make_unique<optim::Adagrad>(
                                  parameters, optim::AdagradOptions(1e-2).capturable()));
  return all;
}

Tensor input(bool overflows) {
  const auto x = torch::randn({8, 12}, torch::kCUDA);
  return overflows ? x.fill_(std::numeric_limits<double>::infinity()) : x;
}

TEST(NoSync, EagerStepsOfTheFusedOptimizersWithAScaler) {
  for (int i = 0; i < 4; ++i) {
    Mlp net;
    net->to(torch::kCUDA);
    const auto [name, optimizer] = std::move(fused_optimizers(net->parameters())[size_t(i)]);
    SCOPED_TRACE(name);
    halfstep::GradScaler scaler(halfstep::GradScalerOptions().init_scale(64));
    for (int step = 0; step < 300; ++step) {  // past the end of the history's first page
      const auto x = input(step == 3);
      const auto before = pretended_syncs();
      optimizer->zero_grad();
      Tensor loss;
      {
        const halfstep::Autocast autocast(
            halfstep::AutocastOptions(torch::kCUDA).dtype(torch::kHalf));
        loss = net->forward(x).to(torch::kFloat).square().mean();
      }
      scaler.scale(loss).backward();
      scaler.step(*optimizer);
      scaler.update();
      ASSERT_EQ(pretended_syncs(), before) << "step " << step;
    }
    EXPECT_EQ(scaler.overflows().overflows, 1);
  }
}

TEST(NoSync, LaunchesOfAWholeStepAndTheirNumber) {
  for (int i = 0; i < 4; ++i) {
    std::vector<int64_t> launches;
    for (const bool capture : {false, true}) {
      Mlp net;
      net->to(torch::kCUDA);
      const auto [name, optimizer] = std::move(fused_optimizers(net->parameters())[size_t(i)]);
      SCOPED_TRACE(name);
      optim::LRScheduler schedule(*optimizer, optim::cosine_annealing_lr(300));
      halfstep::GradScaler scaler(halfstep::GradScalerOptions().init_scale(64).growth_interval(3));
      Step step(net, [net](const Tensor& x) mutable {
        const auto loss = net->forward(x).to(torch::kFloat).square().mean();
        loss.backward();
        return loss;
      });
      step.config().enable_amp(true, torch::kHalf).enable_pass("cuda_graph", capture);
      step.add_optimizer(*optimizer, schedule);
      step.set_grad_scaler(scaler);
      for (int warm_up = 0; warm_up < 5; ++warm_up) step(input(false));
      int64_t given = 0;
      for (int run = 0; run < 20; ++run) {
        const auto x = input(run == 3);
        const auto syncs = pretended_syncs(), before = pretended_launches();
        step(x);
        given += pretended_launches() - before;
        // The schedule reads the flag of the step before, which has long arrived.
        EXPECT_LE(pretended_syncs(), syncs + 1) << "run " << run;
      }
      launches.push_back(given / 20);
      EXPECT_EQ(step.captured_steps(), capture ? 21 : 0) << step.why_not_captured();
      EXPECT_EQ(step.why_step_not_captured(), "");
      EXPECT_EQ(scaler.overflows().overflows, 1);
    }
    // The input, the rate, the graph, the output, the history, the flag for the schedule, and
    // Adam's norm.
    EXPECT_LE(launches[1], 7);
    EXPECT_GT(launches[0], 4 * launches[1]);
  }
}

}  // namespace
