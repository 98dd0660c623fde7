// Every pass at work in one training step: what the debug levels print of it, and the step's bits
// with and without it.
#include "halfstep/graph.h"
#include "halfstep/graph/kernels/batch_norm_kernels.h"
#include "halfstep/graph/kernels/gelu_kernels.h"
#include "halfstep/graph/passes/pass.h"
#include "halfstep/optim.h"

#include <iostream>
#include <map>
#include <sstream>

#include <torch/nn.h>

#include "tests/graph/steps.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::testing::count_of;
using halfstep::testing::same_bits;
using halfstep::testing::state_of;
using torch::Tensor;

constexpr int kSteps = 4;

/// Convolutions channels-last with a batch norm, gelu, casts to and fro: each pass finds its own.
struct Net : torch::nn::Module {
  Net() {
    convolution = register_module("convolution", torch::nn::Conv2d(2, 32, 3));
    norm = register_module("norm", torch::nn::BatchNorm2d(32));
    first = register_module("first", torch::nn::Linear(32, 16));
    second = register_module("second", torch::nn::Linear(16, 4));
  }
  Tensor forward(const Tensor& x) {
    auto y = convolution(x.contiguous(torch::MemoryFormat::ChannelsLast));
    y = torch::tanh(torch::relu(norm(y))).mean({2, 3});
    y = torch::gelu(first(y));
    y.to(torch::kFloat).exp();  // nobody uses it
    const auto low = y.to(torch::kBFloat16);
    const auto back = low.to(torch::kFloat).to(torch::kBFloat16);
    y = torch::relu(second(back) + second(low.detach())) * 2;
    return y.to(torch::kFloat).square().mean();
  }
  torch::nn::Conv2d convolution{nullptr};
  torch::nn::BatchNorm2d norm{nullptr};
  torch::nn::Linear first{nullptr}, second{nullptr};
};

struct Run {
  std::string dump;
  std::vector<Tensor> state;
};

/// Four steps; `off` is a pass that is switched off.
Run run(int level, const std::string& off = "") {
  struct Training : Graph<Tensor(Tensor)> {
    Training() { register_module("net", net); }
    Tensor build(const Tensor& x) override {
      const auto loss = net->forward(x);
      loss.backward();
      return loss;
    }
    std::shared_ptr<Net> net = std::make_shared<Net>();
  };
  torch::manual_seed(1);
  Training step;
  halfstep::optim::Adam adam(step.parameters(), halfstep::optim::AdamOptions(1e-2));
  step.add_optimizer(adam);
  step.config().enable_amp(true, torch::kBFloat16);
  if (!off.empty()) step.config().enable_pass(off, false);
  std::ostringstream out;
  step.debug(level, out);
  for (int i = 0; i < kSteps; ++i) step(torch::randn({8, 2, 16, 16}));
  EXPECT_EQ(step.replayed_steps(), kSteps - 2) << step.last_reason();
  return {out.str(), state_of(*step.net)};
}

/// The line of each pass by its name.
std::map<std::string, std::string> lines_of(const std::string& dump) {
  std::map<std::string, std::string> lines;
  std::istringstream in(dump);
  for (std::string line; std::getline(in, line);) {
    for (const auto& pass : halfstep::detail::passes()) {
      const auto start = "[Graph] " + std::string(pass.name) + " " + pass.did + " ";
      if (line.rfind(start, 0) == 0) lines[pass.name] = line.substr(start.size());
    }
  }
  return lines;
}

std::vector<halfstep::detail::Pass> default_passes() {
  auto passes = halfstep::detail::passes();
  std::erase_if(passes, [](const auto& pass) { return !pass.by_default; });
  return passes;
}

/// Kernels of ours with other bits than LibTorch's on this machine are not chosen.
bool finds_its_own(const std::string& pass) {
  if (pass == "choose_kernels") return halfstep::detail::gelu_backward_has_same_bits();
  if (pass == "fuse_batch_norm") return halfstep::detail::batch_norm_has_same_bits();
  return true;
}

TEST(PassDumps, EachPassFindsSomethingAndTheStepHasItsBitsWithoutIt) {
  const auto all = run(1);
  const auto lines = lines_of(all.dump);
  for (const auto& pass : default_passes()) {
    ASSERT_EQ(lines.count(pass.name), 1U) << pass.name;
    if (finds_its_own(pass.name))
      EXPECT_GT(std::stoi(lines.at(pass.name)), 0) << pass.name << ": " << lines.at(pass.name);
    else
      std::cerr << pass.name
                << " was NOT TESTED: LibTorch's kernel for this CPU rounds otherwise\n";
    const auto without = run(1, pass.name);
    EXPECT_EQ(lines_of(without.dump).count(pass.name), 0U) << pass.name;
    EXPECT_TRUE(same_bits(all.state, without.state)) << pass.name;
  }
}

TEST(PassDumps, ByLevel) {
  const auto passes = int64_t(default_passes().size());
  const std::string ends = " gradients\n";  // of a program's last line
  EXPECT_EQ(run(-1).dump, "");
  const auto reasons = run(0).dump;
  EXPECT_EQ(reasons,
            "[Graph] records a step: there is no recording yet\n"
            "[Graph] records a step: to compare it with the first recording\n");
  EXPECT_EQ(count_of(run(1).dump, ends), 1);
  EXPECT_EQ(count_of(run(2).dump, ends), 2);
  const auto each = run(3).dump;
  EXPECT_EQ(count_of(each, ends), 1 + passes);
  EXPECT_EQ(count_of(each, "as recorded\n"), 1);
}

TEST(PassDumps, AGraphIsPrinted) {
  struct Evaluation : Graph<Tensor(Tensor)> {
    Evaluation() : Graph("Evaluation") { register_module("net", net); }
    Tensor build(const Tensor& x) override { return net->forward(x); }
    halfstep::testing::Mlp net;
  } step;
  step.config().enable_amp(true, torch::kBFloat16);
  std::ostringstream before, after;
  before << step;
  EXPECT_THAT(before.str(), ::testing::HasSubstr("torch::nn::Linear(in_features=12"));
  EXPECT_THAT(before.str(),
              ::testing::HasSubstr("runs in bfloat16 where amp allows, 0 steps "
                                   "recorded, 0 replayed\nnothing is recorded yet\n"));
  for (int i = 0; i < 3; ++i) step(torch::ones({2, 12}));
  after << step;
  EXPECT_THAT(after.str(), ::testing::HasSubstr("2 steps recorded, 1 replayed\n"));
  EXPECT_THAT(after.str(), ::testing::EndsWith(step.program()));
}

}  // namespace
