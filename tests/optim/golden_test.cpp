// 1,000 steps to the bit as Python's fused optimizers took them.
#include "halfstep/core/dtype.h"
#include "halfstep/optim.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <torch/types.h>
#include <torch/version.h>

#include "tests/optim/golden/fused_runs.h"
#include <gtest/gtest.h>

namespace halfstep::testing {

namespace {

using golden::Run;
using torch::optim::OptimizerParamGroup;

constexpr int kParameters = std::size(golden::kSizes);

at::Tensor start(int p, c10::ScalarType dtype) {
  std::vector<double> values;
  for (int i = 0; i < golden::kSizes[p]; ++i)
    values.push_back(((i * 31 + p * 17) % 97 - 48) / 64.0);
  return torch::tensor(values, torch::kDouble).to(dtype);
}

at::Tensor gradient(int p, int step, double scale, c10::ScalarType dtype) {
  std::vector<double> values;
  for (int64_t i = 0; i < golden::kSizes[p]; ++i)
    values.push_back((double((i * 7919 + step * 104729L + p * 1299709L) % 2003) - 1001) / 512 *
                     scale);
  return torch::tensor(values, torch::kDouble).to(dtype);
}

uint64_t hash(const std::vector<at::Tensor>& tensors) {
  uint64_t result = 0xCBF29CE484222325U;
  for (const auto& tensor : tensors) {
    const auto* bytes = static_cast<const uint8_t*>(tensor.const_data_ptr());
    for (size_t i = 0; i < tensor.nbytes(); ++i) result = (result ^ bytes[i]) * 0x100000001B3U;
  }
  return result;
}

template <class Optimizer, class Options, class Set>
std::unique_ptr<optim::FusedOptimizer> make(const std::vector<at::Tensor>& parameters,
                                            const Run& run, const Set& set) {
  std::vector<OptimizerParamGroup> groups;
  for (int g = 0; g < 2; ++g) {
    std::vector<at::Tensor> of_group;
    for (int p = 0; p < kParameters; ++p) {
      if (golden::kGroups[p] == g) of_group.push_back(parameters[p]);
    }
    const auto& given = run.groups[g];
    auto options = std::make_unique<Options>(given.lr);
    options->weight_decay(given.weight_decay).maximize(given.maximize);
    set(*options, given);
    groups.emplace_back(std::move(of_group), std::move(options));
  }
  return std::make_unique<Optimizer>(groups, Options().kernel(optim::Kernel::aten));
}

std::unique_ptr<optim::FusedOptimizer> make(const std::vector<at::Tensor>& parameters,
                                            const Run& run) {
  const auto adam = [](auto& options, const golden::Options& given) {
    options.betas({given.beta1, given.beta2}).eps(given.eps).amsgrad(given.amsgrad);
  };
  if (run.optimizer == "Adam") return make<optim::Adam, optim::AdamOptions>(parameters, run, adam);
  if (run.optimizer == "AdamW")
    return make<optim::AdamW, optim::AdamWOptions>(parameters, run, adam);
  if (run.optimizer == "SGD")
    return make<optim::SGD, optim::SGDOptions>(
        parameters, run, [](auto& options, const golden::Options& given) {
          options.momentum(given.momentum).dampening(given.dampening).nesterov(given.nesterov);
        });
  return make<optim::Adagrad, optim::AdagradOptions>(
      parameters, run, [](auto& options, const golden::Options& given) {
        options.lr_decay(given.lr_decay)
            .eps(given.eps)
            .initial_accumulator_value(given.initial_accumulator_value);
      });
}

class FusedGolden : public ::testing::TestWithParam<Run> {};

}  // namespace

TEST_P(FusedGolden, BitsOfPython) {
  const auto& run = GetParam();
  const auto dtype = parse_dtype(run.dtype);
  if (is_low_precision(dtype) && run.optimizer != "Adam" && run.optimizer != "AdamW" &&
      (TORCH_VERSION_MAJOR < 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 15)))
    GTEST_SKIP()
        << "SKIPPED, NOTHING WAS TESTED: ATen's kernel of this LibTorch computes something else";
  std::vector<at::Tensor> parameters;
  for (int p = 0; p < kParameters; ++p) parameters.push_back(start(p, dtype).requires_grad_());
  const auto optimizer = make(parameters, run);
  size_t snapshot = 0;
  for (int step = 0; step < golden::kSteps; ++step) {
    const bool skip = std::find(run.skips.begin(), run.skips.end(), step) != run.skips.end();
    for (int p = 0; p < kParameters; ++p) {
      auto grad = gradient(p, step, run.scale != 0 ? run.scale : 1, dtype);
      if (skip && p == 1) grad[5] = std::numeric_limits<float>::infinity();
      parameters[p].mutable_grad() = grad;
    }
    if (run.scale != 0) {
      optimizer->grad_scale = torch::full({}, run.scale, torch::kFloat);
      optimizer->found_inf = torch::full({}, skip ? 1.0 : 0.0, torch::kFloat);
    }
    optimizer->step();
    if (step + 1 != golden::kSnapshots[snapshot]) continue;
    std::vector<at::Tensor> gradients, buffers;
    for (const auto& parameter : parameters) {
      gradients.push_back(parameter.grad());
      const auto found = optimizer->state().find(parameter.unsafeGetTensorImpl());
      if (found == optimizer->state().end()) continue;
      for (const auto& buffer : static_cast<optim::FusedState&>(*found->second).buffers) {
        if (buffer.defined()) buffers.push_back(buffer);
      }
    }
    const auto& expected = run.snapshots[snapshot];
    EXPECT_EQ(hash(parameters), expected.parameters) << "parameters after step " << step + 1;
    EXPECT_EQ(hash(gradients), expected.gradients) << "gradients after step " << step + 1;
    // Python makes state at a skipped first step too; here that is left to the second.
    if (!(skip && step == 0)) {
      EXPECT_EQ(hash(buffers), expected.buffers) << "state after step " << step + 1;
    }
    ++snapshot;
  }
  EXPECT_EQ(snapshot, std::size(golden::kSnapshots));
  for (size_t i = 0; i < run.last.size(); ++i)
    EXPECT_EQ(parameters[0][int64_t(i)].item<double>(), run.last[i]);
}

INSTANTIATE_TEST_SUITE_P(Of, FusedGolden, ::testing::ValuesIn(golden::kRuns),
                         [](const auto& of) { return of.param.name; });

}  // namespace halfstep::testing
