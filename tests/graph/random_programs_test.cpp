// Random programs of views, casts, products, sums and calls in place, over a module whose weights
// and buffer change: replays against eager runs, with and without backward, outputs kept.
#include "halfstep/core/error.h"
#include "halfstep/graph.h"

#include <random>
#include <vector>

#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "tests/graph/steps.h"
#include "tests/support/thread_count.h"
#include <gtest/gtest.h>

namespace {

using halfstep::Graph;
using halfstep::testing::ThreadCount;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

constexpr auto kLow = torch::kBFloat16;

struct RandomNet : torch::nn::Module {
  explicit RandomNet(int64_t side) {
    weight = register_parameter("weight", torch::randn({side, side}));
    bias = register_parameter("bias", torch::randn({side, side}));
    buffer = register_buffer("buffer", torch::randn({side, side}));
  }
  Tensor weight, bias, buffer;
};

/// Runs the program of a seed; all tensors are `side` × `side`.
class RandomProgram {
 public:
  RandomProgram(uint32_t seed, bool backward, int64_t side)
      : seed_(seed), backward_(backward), side_(side) {}

  Tensors operator()(const RandomNet& net, const Tensors& inputs) const {
    Run run{std::mt19937(seed_), {inputs[0], inputs[1], net.weight, net.bias, net.buffer}, {}};
    run.own.resize(run.values.size());
    const auto count = 6 + run.below(14);
    for (size_t i = 0; i < count; ++i) step(run, net);
    Tensors outputs;
    for (size_t i = 0; i < 2; ++i) outputs.push_back(run.any() + 0);
    // Not a view of a weight, which changes.
    outputs.push_back(run.own.back() ? run.values.back() : run.values.back() + 0);
    if (backward_) {
      auto loss = wide(run.values.back()).sum();
      for (int i = 0; i < 3; ++i) loss = loss + wide(run.any()).mean();
      if (loss.requires_grad()) loss.backward();
    }
    return outputs;
  }

 private:
  struct Run {
    std::mt19937 random;
    Tensors values;
    std::vector<bool> own;  // may be written
    size_t below(size_t n) { return random() % n; }
    size_t index() {
      return below(3) == 0 ? below(values.size())
                           : values.size() - 1 - below(std::min<size_t>(5, values.size()));
    }
    const Tensor& any() { return values[index()]; }
  };

  static Tensor wide(const Tensor& x) { return x.to(torch::kFloat); }

  void step(Run& run, const RandomNet& net) const {
    const auto i = run.index();
    auto a = run.values[i];
    const auto b = run.any();
    const bool writes = run.own[i] && !a.requires_grad();
    // With a gradient, eager code would leak a cycle of autograd's in some programs.
    const auto value = b.detach().to(a.scalar_type());
    bool is_view = false;
    Tensor made;
    switch (run.below(28)) {
      case 0:
        made = a + b;
        break;
      case 1:
        made = a * b;
        break;
      case 2:
        made = a.relu();
        break;
      case 3:
        made = a.to(a.scalar_type() == kLow ? torch::kFloat : kLow);
        break;
      case 4:
        made = a.t();
        is_view = true;
        break;
      case 5:
        made = a.detach();
        is_view = true;
        break;
      case 6:
        made = a.exp().clamp_max(3);
        break;
      case 7:
        made = wide(a).mm(wide(b)) * 0.1;
        break;
      case 8:
        made = a.sum(0, true).expand({side_, side_}) * 0.3;
        break;
      case 9:
        made = torch::cat({wide(a).slice(0, 0, side_ / 2), wide(b).slice(0, side_ / 2, side_)});
        break;
      case 10:
        made = torch::ones_like(a);
        break;
      case 11:
        made = torch::zeros_like(a);
        break;
      case 12:
        made = a.tanh();
        break;
      case 13:
        made = wide(a).softmax(1);
        break;
      case 14:
        made = a.reshape({side_ / 2, side_ * 2}).reshape({side_, side_}) - b;
        break;
      case 15:
        made = torch::where(a > 0, wide(a), wide(b));
        break;
      case 16:
        made = torch::rand({side_, side_}) + a;
        break;
      case 17: {
        const auto [values, order] = wide(a).topk(side_, 1);
        made = values + order;
        break;
      }
      case 18:
        writes ? void(a.add_(value)) : void(made = a + 1);
        break;
      case 19:
        writes ? void(a.mul_(value)) : void(made = a * 2);
        break;
      case 20:
        writes ? void(a.relu_()) : void(made = a.neg());
        break;
      case 21:
        writes ? void(a.select(0, 1).fill_(0.5)) : void(made = a.sigmoid());
        break;
      case 22:
        writes ? void(a.t_()) : void(made = a.abs());
        break;
      case 23:
        made = a - a.t();
        break;
      case 24:
        made = a + a.narrow(1, 1, 1);
        break;
      case 25:
        made = a * a.diagonal();
        break;
      case 26:
        made = a - a.select(0, 2);
        break;
      default:
        if (backward_)
          made = a - b;
        else
          net.buffer.mul_(0.5).add_(wide(b).detach().clamp(-1, 1));
    }
    if (!made.defined()) return;
    run.values.push_back(made.clamp(-50, 50));
    run.own.push_back(true);
    if (!is_view) return;
    run.values.push_back(made);
    run.own.push_back(run.own[i]);
  }

  uint32_t seed_;
  bool backward_;
  int64_t side_;
};

struct RandomStep : Graph<Tensors(Tensors)> {
  RandomStep(std::shared_ptr<RandomNet> its_net, RandomProgram its_program)
      : net(register_module("net", std::move(its_net))), random_program(its_program) {}
  Tensors build(const Tensors& inputs) override { return random_program(*net, inputs); }
  std::shared_ptr<RandomNet> net;
  RandomProgram random_program;
};

/// What a step left; NaNs, which may differ in their bits, as 7.
Tensors left(const Tensors& outputs, const RandomNet& net) {
  Tensors all = outputs;
  all.insert(all.end(), {net.buffer, net.weight.grad(), net.bias.grad()});
  for (auto& tensor : all)
    tensor = tensor.defined() ? tensor.detach().nan_to_num(7, 9, -9) : torch::zeros({1});
  return all;
}

/// Returns whether it was replayed; eager code refuses some programs.
bool check_program(uint32_t seed, bool backward, int64_t side) {
  const at::AutoGradMode mode(backward);
  torch::manual_seed(seed);
  const auto net = std::make_shared<RandomNet>(side), other = std::make_shared<RandomNet>(side);
  {
    const torch::NoGradGuard no_grad;
    other->weight.copy_(net->weight);
    other->bias.copy_(net->bias);
    other->buffer.copy_(net->buffer);
  }
  const RandomProgram program(seed, backward, side);
  RandomStep step(net, program);
  Tensors kept, as_they_were;
  for (int i = 0; i < 5; ++i) {
    const Tensors inputs{torch::randn({side, side}), torch::randn({side, side}).to(kLow)};
    net->zero_grad();
    other->zero_grad();
    torch::manual_seed(i);
    Tensors of_eager;
    try {
      of_eager = program(*other, inputs);
    } catch (const c10::Error&) {
      return false;  // it wrote what autograd had saved
    }
    const auto expected = left(of_eager, *other);
    torch::manual_seed(i);
    const auto outputs = step(inputs);
    EXPECT_TRUE(halfstep::testing::same_bits(expected, left(outputs, *net)))
        << "seed " << seed << ", call " << i << ", " << step.last_reason() << "\n"
        << step.program();
    if (::testing::Test::HasFailure()) return false;
    kept.insert(kept.end(), outputs.begin(), outputs.end());
    for (const auto& output : outputs) as_they_were.push_back(output.detach().clone());
    const torch::NoGradGuard no_grad;
    for (const auto& of : {net, other}) {
      of->weight.add_(0.01);
      if (i == 3 && seed % 3 == 0) of->bias.set_data(of->bias.detach().clone());
    }
  }
  for (size_t i = 0; i < kept.size(); ++i) {
    EXPECT_TRUE(halfstep::testing::same_bits({as_they_were[i].nan_to_num(7)},
                                             {kept[i].detach().nan_to_num(7)}))
        << "seed " << seed << ": a later step wrote output " << i;
  }
  return step.replayed_steps() > 0;
}

/// How many of the first `count` seeds' programs were replayed, with and without backward.
int replayed_programs(uint32_t count, int64_t side) {
  const ThreadCount one(1);
  int replayed = 0;
  for (uint32_t seed = 0; seed < count; ++seed) {
    for (const bool backward : {false, true}) {
      replayed += check_program(seed, backward, side) ? 1 : 0;
      if (::testing::Test::HasFailure()) return -1;
    }
  }
  return replayed;
}

TEST(GraphRandomPrograms, HaveTheBitsOfEager) {
  EXPECT_GT(replayed_programs(300, 4), 540) << "too many programs were no programs";
}

TEST(GraphRandomPrograms, HaveThemWhereResultsAreLarge) {
  EXPECT_GT(replayed_programs(30, 192), 54) << "too many programs were no programs";
}

}  // namespace
