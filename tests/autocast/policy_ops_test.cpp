#include "halfstep/autocast/op_policy.h"
#include "halfstep/core/error.h"

#include "tests/autocast/op_expectations.h"

namespace halfstep {

using testing::OpCase;
using testing::Policy;
using testing::Tensors;
using testing::Where;

namespace {

/// A call's outputs and the gradients of its inputs, or that it threw.
struct Outcome {
  Tensors tensors = {};
  bool threw = false;
};

}  // namespace

/// Regions with the preset torch: every listed op does what its list says.
class PolicyOps : public testing::AutocastOps {
 protected:
  // Calls the op in a region, as often as a weight may be used in one, and differentiates.
  Outcome run(const AutocastOptions& options, const OpCase& op, const Tensors& inputs) {
    Tensors leaves;
    for (const auto& input : inputs) {
      leaves.push_back(input.detach().clone());
      if (input.is_floating_point()) leaves.back().requires_grad_();
    }
    Outcome outcome;
    torch::manual_seed(5);
    try {
      torch::Tensor loss;
      {
        const Autocast autocast(options);
        for (int use = 0; use < 2; ++use) {
          for (const auto& output : op.call(leaves)) {
            outcome.tensors.push_back(output.detach());
            if (!output.is_floating_point() || !output.requires_grad()) continue;
            const auto part = (output.to(torch::kFloat) * (use + 1.5)).square().sum();
            loss = loss.defined() ? loss + part : part;
          }
        }
      }
      if (loss.defined()) loss.backward();
    } catch (const std::exception&) {
      outcome.threw = true;
      outcome.tensors.clear();
      return outcome;
    }
    for (const auto& leaf : leaves) {
      if (leaf.grad().defined()) outcome.tensors.push_back(leaf.grad());
    }
    return outcome;
  }

  AutocastOptions stock_region() const {
    return AutocastOptions(GetParam().device_type).dtype(GetParam().dtype);
  }
};

/// Regions whose list is CUDA's, which has rules that CPU's has not.
class PolicyOpsOfCuda : public PolicyOps {};
/// Regions whose list is their own device type's.
class PolicyOpsOfTheirDevice : public PolicyOps {};

const Where kOwnLists[] = {{torch::kCPU, torch::kBFloat16, torch::kCPU},
                           {torch::kCPU, torch::kHalf, torch::kCPU},
                           {torch::kCUDA, torch::kHalf, torch::kCUDA},
                           {torch::kCUDA, torch::kBFloat16, torch::kCUDA}};
const Where kCudasList[] = {{torch::kCPU, torch::kBFloat16, torch::kCUDA},
                            {torch::kCPU, torch::kHalf, torch::kCUDA},
                            {torch::kCUDA, torch::kHalf, torch::kCUDA}};
const Where kOtherLists[] = {{torch::kCPU, torch::kBFloat16, torch::kCUDA},
                             {torch::kCPU, torch::kHalf, torch::kCUDA},
                             {torch::kCUDA, torch::kHalf, torch::kCPU}};
INSTANTIATE_TEST_SUITE_P(Own, PolicyOps, ::testing::ValuesIn(kOwnLists), testing::where_name);
INSTANTIATE_TEST_SUITE_P(Other, PolicyOps, ::testing::ValuesIn(kOtherLists), testing::where_name);
INSTANTIATE_TEST_SUITE_P(On, PolicyOpsOfCuda, ::testing::ValuesIn(kCudasList), testing::where_name);
INSTANTIATE_TEST_SUITE_P(On, PolicyOpsOfTheirDevice, ::testing::ValuesIn(kOwnLists),
                         testing::where_name);

TEST_P(PolicyOps, LowerPrecision) {
  expect_lower_precision();
}
TEST_P(PolicyOps, Float32) {
  expect_float32();
}
TEST_P(PolicyOps, Promote) {
  expect_promote();
}
TEST_P(PolicyOpsOfCuda, Float32ByDtypeArgument) {
  expect_float32_by_dtype_argument();
}
TEST_P(PolicyOpsOfCuda, Banned) {
  for_each_case(Policy::banned, [&](const OpCase& op, const Tensors& inputs) {
    const Autocast autocast(region());
    EXPECT_ANY_THROW(op.call(inputs));
  });
}

// The preset torch(device) on its own device: results, gradients of weights used twice, and calls
// that throw are stock autocast's.
TEST_P(PolicyOpsOfTheirDevice, AreStockAutocastToTheBit) {
  int calls = 0;
  int compared = 0;
  int gradients = 0;
  for (const auto& op : testing::op_cases()) {
    if (op.cuda_only && GetParam().device_type != torch::kCUDA) continue;
    if (op.op == "linalg_matrix_sqrth" && testing::old_lists) continue;
    // What LAPACK finds depends on where its work memory lies.
    if (op.op == "linalg_lstsq") continue;
    SCOPED_TRACE(op.op);
    torch::manual_seed(11);
    Tensors wide;
    for (const auto& input : op.inputs) wide.push_back(input.make(device()));
    auto mixed = testing::cast(wide, low());
    for (auto& input : mixed) {
      if (!input.is_floating_point()) continue;
      input = input.to(torch::kFloat);
      break;
    }
    for (const auto& inputs : {wide, testing::cast(wide, low()), mixed}) {
      const auto stock = run(stock_region(), op, inputs);
      const auto policy = run(region(), op, inputs);
      ++calls;
      ASSERT_EQ(policy.threw, stock.threw);
      ASSERT_EQ(policy.tensors.size(), stock.tensors.size());
      for (size_t i = 0; i < stock.tensors.size(); ++i) {
        testing::expect_same_bits(policy.tensors[i], stock.tensors[i]);
        ++compared;
      }
      gradients += stock.tensors.size() > 2;
    }
  }
  EXPECT_GT(calls, 500);
  EXPECT_GT(compared, 1500);
  EXPECT_GT(gradients, 300);
}

}  // namespace halfstep
