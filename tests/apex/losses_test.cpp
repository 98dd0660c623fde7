// Ports of Apex's test_multiple_models_optimizers_losses.py and test_fused_sgd.py: models × losses
// × optimizers × levels × ways to zero × scales, with an inf put in at each place, against the
// gradients and weights of the same optimizers without Apex.
#include "halfstep/optim/sgd.h"

#include <limits>
#include <memory>
#include <optional>

#include <torch/optim/sgd.h>

#include "tests/apex/two_weights.h"
#include "tests/support/devices.h"

namespace halfstep::testing {

namespace {

struct Group {
  int model;
  double lr;
};

/// Which losses, of which models, step which optimizers.
struct Plan {
  std::vector<std::vector<int>> losses;          // the models whose sum each loss is
  std::vector<std::vector<Group>> optimizers;    // their groups
  std::vector<double> momenta;                   // of the optimizers
  std::vector<std::vector<std::size_t>> scopes;  // the optimizers each loss names

  std::size_t models() const {
    std::size_t count = 0;
    for (const auto& groups : optimizers) count += groups.size();
    return count;
  }
};

/// An inf in the gradient of a model, after the backward of a loss in an iteration.
struct Inf {
  int iteration;
  std::size_t loss;
  int model;
  bool in_float16;
};

enum class Kind { stock, fused, fused_with_masters };

std::unique_ptr<torch::optim::Optimizer> make(Kind kind, double momentum,
                                              const std::vector<std::vector<at::Tensor>>& groups,
                                              const std::vector<Group>& plan) {
  std::vector<torch::optim::OptimizerParamGroup> made;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (kind == Kind::stock)
      made.emplace_back(groups[g], std::make_unique<torch::optim::SGDOptions>(
                                       torch::optim::SGDOptions(plan[g].lr).momentum(momentum)));
    else
      made.emplace_back(groups[g], std::make_unique<optim::SGDOptions>(
                                       optim::SGDOptions(plan[g].lr).momentum(momentum)));
  }
  if (kind == Kind::stock)
    return std::make_unique<torch::optim::SGD>(made, torch::optim::SGDOptions(0.1));
  auto options = optim::SGDOptions(0.1);
  if (kind == Kind::fused_with_masters) options.master_weights(optim::MasterWeights::float32);
  return std::make_unique<optim::SGD>(made, options);
}

/// Models and optimizers of a plan.
struct Parts {
  Parts(const Plan& plan, Kind kind, c10::Device device) {
    for (std::size_t m = 0; m < plan.models(); ++m)
      models.push_back(std::make_unique<TwoWeights>(1.0 + static_cast<double>(m), device));
    for (std::size_t o = 0; o < plan.optimizers.size(); ++o) {
      std::vector<std::vector<at::Tensor>> groups;
      for (const auto& group : plan.optimizers[o]) {
        groups.push_back(models[static_cast<std::size_t>(group.model)]->parameters());
        parameters.insert(parameters.end(), groups.back().begin(), groups.back().end());
      }
      optimizers.push_back(make(kind, plan.momenta[o], groups, plan.optimizers[o]));
    }
  }

  at::Tensor loss(const Plan& plan, std::size_t l, const at::Tensor& x) const {
    at::Tensor sum;
    for (const int m : plan.losses[l]) {
      const auto value = models[static_cast<std::size_t>(m)]->forward(x);
      sum = sum.defined() ? sum + value : value;
    }
    return sum;
  }

  apex::Models all_models() const {
    apex::Models all;
    for (const auto& model : models) all.emplace_back(*model);
    return all;
  }
  apex::Optimizers all_optimizers() const {
    apex::Optimizers all;
    for (const auto& optimizer : optimizers) all.emplace_back(*optimizer);
    return all;
  }

  std::vector<std::unique_ptr<TwoWeights>> models;
  std::vector<std::unique_ptr<torch::optim::Optimizer>> optimizers;
  std::vector<at::Tensor> parameters;  // of the models, in the optimizers' order
};

std::vector<at::Tensor> copies(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> copied;
  for (const auto& tensor : tensors) copied.push_back(tensor.detach().to(torch::kFloat).clone());
  return copied;
}

std::vector<at::Tensor> gradients(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> found;
  for (const auto& tensor : tensors) found.push_back(tensor.grad());
  return copies(found);
}

/// What comes out without Apex, where the optimizers of the loss with the inf leave that step out.
struct Reference {
  std::vector<std::vector<at::Tensor>> gradients;  // by iteration
  std::vector<at::Tensor> weights;
};

int iterations(const std::optional<Inf>& inf) {
  return inf ? 3 : 2;
}

Reference run_reference(const Plan& plan, const std::optional<Inf>& inf, const at::Tensor& x) {
  const Parts parts(plan, Kind::stock, x.device());
  Reference reference;
  for (int i = 0; i < iterations(inf); ++i) {
    for (const auto& optimizer : parts.optimizers) optimizer->zero_grad();
    for (std::size_t l = 0; l < plan.losses.size(); ++l) parts.loss(plan, l, x).backward();
    reference.gradients.push_back(gradients(parts.parameters));
    for (std::size_t o = 0; o < parts.optimizers.size(); ++o) {
      bool skip = false;
      if (inf && inf->iteration == i) {
        for (const auto named : plan.scopes[inf->loss]) skip = skip || named == o;
      }
      if (!skip) parts.optimizers[o]->step();
    }
  }
  reference.weights = copies(parts.parameters);
  return reference;
}

void expect_equal(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& expected,
                  const char* what) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    EXPECT_TRUE(torch::allclose(got[i], expected[i]))
        << what << " " << i << ": " << got[i] << expected[i];
}

struct Case {
  apex::OptLevel level;
  HowToZero zero;
  bool several_scales;
  std::optional<Inf> inf;
};

void run_case(const Plan& plan, Kind kind, const Case& each, const Reference& reference,
              const at::Tensor& x) {
  const Parts parts(plan, kind, x.device());
  auto amp = apex::initialize(parts.all_models(), parts.all_optimizers(),
                              as_is(each.level).num_losses(each.several_scales ? 2 : 1));
  const auto id = [&](std::size_t l) { return each.several_scales ? static_cast<int64_t>(l) : 0; };
  const bool dynamic = !amp.properties().loss_scale;
  if (dynamic) set_scale(amp.scaler(0), 4);
  if (dynamic && each.several_scales) set_scale(amp.scaler(1), 16);

  std::vector<at::Tensor> masters;
  for (int i = 0; i < iterations(each.inf); ++i) {
    zero_gradients(each.zero, parts.all_models(), parts.all_optimizers());
    std::vector<at::Tensor> losses;
    for (std::size_t l = 0; l < plan.losses.size(); ++l) losses.push_back(parts.loss(plan, l, x));
    const bool bad = each.inf && each.inf->iteration == i;
    for (std::size_t l = 0; l < losses.size(); ++l) {
      apex::Optimizers named;
      for (const auto o : plan.scopes[l]) named.emplace_back(*parts.optimizers[o]);
      auto scaled = amp.scale_loss(losses[l], named, apex::ScaleLossOptions().loss_id(id(l)));
      scaled->backward();
      if (bad && each.inf->loss == l) {
        const auto& model = *parts.models[static_cast<std::size_t>(each.inf->model)];
        (each.inf->in_float16 ? model.weight1 : model.weight0).mutable_grad()[0] =
            std::numeric_limits<float>::infinity();
      }
    }
    masters.clear();
    for (const auto& optimizer : parts.optimizers) {
      const auto stepped = amp.master_params(*optimizer);
      masters.insert(masters.end(), stepped.begin(), stepped.end());
    }
    if (!bad)
      expect_equal(gradients(masters), reference.gradients[static_cast<std::size_t>(i)],
                   "gradient");
    for (std::size_t o = 0; o < parts.optimizers.size(); ++o) {
      bool skips = false;
      if (bad) {
        for (const auto named_one : plan.scopes[each.inf->loss]) skips = skips || named_one == o;
      }
      EXPECT_EQ(amp.step(*parts.optimizers[o]).stepped(), !skips) << "optimizer " << o;
    }
  }
  expect_equal(copies(parts.parameters), reference.weights, "weight");
  expect_equal(copies(masters), reference.weights, "master");
  if (dynamic) {
    const auto halved = each.inf && id(each.inf->loss) == 0;
    EXPECT_EQ(amp.scaler(0).get_scale(), halved ? 2 : 4);
    if (each.several_scales) {
      EXPECT_EQ(amp.scaler(1).get_scale(), each.inf && each.inf->loss == 1 ? 8 : 16);
    }
  }
}

/// Every inf of a plan, and none.
std::vector<std::optional<Inf>> all_infs(const Plan& plan) {
  std::vector<std::optional<Inf>> all{std::nullopt};
  for (const int iteration : {0, 1}) {
    for (std::size_t l = 0; l < plan.losses.size(); ++l) {
      // An inf reaches the model's own optimizer: a scope looks at no others.
      for (const int model : plan.losses[l]) {
        for (const bool in_float16 : {true, false})
          all.push_back({{iteration, l, model, in_float16}});
      }
    }
  }
  return all;
}

void expect_reference(const Plan& plan, Kind kind, c10::Device device) {
  const auto x = torch::ones({2}, torch::device(device));
  int cases = 0;
  for (const auto& inf : all_infs(plan)) {
    const auto reference = run_reference(plan, inf, x);
    for (const auto level : kLevels) {
      const bool checks = level == apex::OptLevel::O1 || level == apex::OptLevel::O2;
      if (inf && !checks) continue;
      for (const auto zero : kWaysToZero) {
        for (const bool several_scales : {true, false}) {
          SCOPED_TRACE(::testing::Message()
                       << "O" << static_cast<int>(level) << ", zero " << static_cast<int>(zero)
                       << ", several scales " << several_scales
                       << (inf ? ", inf in iteration " + std::to_string(inf->iteration) + " loss " +
                                     std::to_string(inf->loss) + " model " +
                                     std::to_string(inf->model) +
                                     (inf->in_float16 ? " half" : " float")
                               : std::string()));
          run_case(plan, kind, {level, zero, several_scales, inf}, reference, x);
          ++cases;
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  }
  EXPECT_GE(cases, 12 + 4 * 3 * 2 * 4);
}

}  // namespace

class ApexLosses : public ::testing::TestWithParam<std::tuple<Kind, c10::DeviceType>> {
 protected:
  void SetUp() override {
    if (std::get<1>(GetParam()) == torch::kCUDA) HALFSTEP_REQUIRE_CUDA(1);
  }
  void expect(const Plan& plan) const {
    expect_reference(plan, std::get<0>(GetParam()), std::get<1>(GetParam()));
  }
};
std::string case_name(const ::testing::TestParamInfo<ApexLosses::ParamType>& info) {
  const std::string kinds[] = {"Stock", "Fused", "FusedWithMasters"};
  const auto& [kind, device] = info.param;
  return kinds[static_cast<int>(kind)] + (device == torch::kCUDA ? "Cuda" : "Cpu");
}
INSTANTIATE_TEST_SUITE_P(With, ApexLosses,
                         ::testing::Combine(::testing::Values(Kind::stock, Kind::fused,
                                                              Kind::fused_with_masters),
                                            ::testing::Values(torch::kCPU, torch::kCUDA)),
                         case_name);

TEST_P(ApexLosses, TwoModelsTwoLossesOneOptimizer) {
  expect({{{0}, {1}}, {{{0, 0.25}, {1, 0.5}}}, {0.125}, {{0}, {0}}});
}

TEST_P(ApexLosses, ThreeModelsTwoLossesOneOptimizer) {
  expect({{{0, 2}, {1, 2}}, {{{0, 0.25}, {1, 0.5}, {2, 0.125}}}, {0.125}, {{0}, {0}}});
}

TEST_P(ApexLosses, TwoModelsTwoLossesTwoOptimizers) {
  expect({{{0}, {1}}, {{{0, 0.25}}, {{1, 0.5}}}, {0.125, 0.25}, {{0}, {1}}});
}

TEST_P(ApexLosses, ThreeModelsTwoLossesTwoOptimizers) {
  expect({{{0, 1}, {2, 1}}, {{{0, 0.25}, {1, 1.0}}, {{2, 0.5}}}, {0.5, 0.25}, {{0}, {0, 1}}});
}

}  // namespace halfstep::testing
