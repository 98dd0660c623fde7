#include "halfstep/autocast/autocast.h"

#include <functional>

#include <torch/torch.h>

#include "tests/support/devices.h"

namespace halfstep {

namespace {

using Tensors = std::vector<torch::Tensor>;

/// One call whose inputs' widest type is the question.
struct WidestOp {
  std::string name;
  std::vector<std::vector<int64_t>> shapes;
  std::function<torch::Tensor(const Tensors&)> call;
};

std::vector<WidestOp> widest_ops() {
  return {
      {"addcdiv", {{8}, {8}, {8}}, [](const Tensors& t) { return at::addcdiv(t[0], t[1], t[2]); }},
      {"addcmul", {{8}, {8}, {8}}, [](const Tensors& t) { return at::addcmul(t[0], t[1], t[2]); }},
      {"atan2", {{8}, {8}}, [](const Tensors& t) { return at::atan2(t[0], t[1]); }},
      {"bilinear",
       {{4, 5}, {4, 3}, {2, 5, 3}},
       [](const Tensors& t) { return at::bilinear(t[0], t[1], t[2]); }},
      {"cat",
       {{8}, {8}},
       [](const Tensors& t) {
         return at::cat({t[0], t[1]});
       }},
      {"cross", {{4, 3}, {4, 3}}, [](const Tensors& t) { return at::cross(t[0], t[1], 1); }},
      {"dot", {{8}, {8}}, [](const Tensors& t) { return at::dot(t[0], t[1]); }},
      {"index_put",
       {{8}, {2}},
       [](const Tensors& t) {
         return at::index_put(t[0], {torch::tensor({0, 1}, t[0].device())}, t[1]);
       }},
      {"stack",
       {{8}, {8}},
       [](const Tensors& t) {
         return at::stack({t[0], t[1]});
       }},
      {"tensordot",
       {{4, 5}, {5, 4}},
       [](const Tensors& t) { return at::tensordot(t[0], t[1], {1}, {0}); }},
  };
}

constexpr auto kLow = torch::kBFloat16;
constexpr auto kWide = torch::kFloat;
/// In a row of the table: the call throws.
constexpr auto kThrows = c10::ScalarType::Undefined;

/// The dtype of a call's result by the inputs: both low, both float32, mixed.
struct Expected {
  c10::ScalarType both_low, both_wide, mixed;
};

}  // namespace

class WidestType : public testing::DeviceTest {
 protected:
  c10::ScalarType dtype(const OpPolicy& policy, const WidestOp& op,
                        const std::vector<c10::ScalarType>& dtypes) const {
    torch::manual_seed(3);
    Tensors inputs;
    for (size_t i = 0; i < op.shapes.size(); ++i) {
      inputs.push_back(
          (torch::rand(op.shapes[i], device()) + 0.5).to(dtypes[std::min(i, dtypes.size() - 1)]));
    }
    const Autocast autocast(AutocastOptions(GetParam()).dtype(kLow).policy(policy));
    try {
      return op.call(inputs).scalar_type();
    } catch (const c10::Error&) {
      return kThrows;
    }
  }

  void expect(const OpPolicy& policy, const WidestOp& op, const Expected& expected) const {
    SCOPED_TRACE(op.name + " under " + policy.base());
    EXPECT_EQ(dtype(policy, op, {kLow}), expected.both_low);
    EXPECT_EQ(dtype(policy, op, {kWide}), expected.both_wide);
    EXPECT_EQ(dtype(policy, op, {kWide, kLow}), expected.mixed);
    EXPECT_EQ(dtype(policy, op, {kLow, kWide}), expected.mixed);
  }
};
HALFSTEP_ON_EACH_DEVICE(WidestType);

// "if fp16 and fp32 operate, then the output type is fp32, if they are both fp16, the fp16
// operation will be used, if they are both of type fp32, the output will still be fp32"
TEST_P(WidestType, PrevailsOnCudasList) {
  for (const auto& op : widest_ops())
    expect(OpPolicy::torch(torch::kCUDA), op, {kLow, kWide, kWide});
}

// "but that fp32 type will be forced to be the fp16 operation in MMCV"
TEST_P(WidestType, OfFloat32InputsIsLowInMmcv) {
  for (const auto& op : widest_ops()) expect(OpPolicy::mmcv(), op, {kLow, kLow, kWide});
}

TEST_P(WidestType, PrevailsInSafe) {
  for (const auto& op : widest_ops()) expect(OpPolicy::safe(), op, {kLow, kWide, kWide});
}

// Apex lists all but two: index_put takes one dtype only, and tensordot is made of mm, which runs
// in 16 bits, once it has checked that it got one dtype.
TEST_P(WidestType, PrevailsInApex) {
  for (const auto& op : widest_ops()) {
    if (op.name == "tensordot")
      expect(OpPolicy::apex(), op, {kLow, kLow, kThrows});
    else
      expect(OpPolicy::apex(), op, {kLow, kWide, op.name == "index_put" ? kThrows : kWide});
  }
}

// OneFlow lists cat; what it does not list is float32.
TEST_P(WidestType, IsFloat32InOneflow) {
  for (const auto& op : widest_ops()) {
    const bool gray = op.name == "cat" || op.name == "stack";
    expect(OpPolicy::oneflow(), op, {gray ? kLow : kWide, kWide, kWide});
  }
}

// CPU's list promotes cat and stack; by themselves addcdiv, addcmul and atan2 promote, and the
// others throw for mixed inputs. tensordot is made of mm.
TEST_P(WidestType, OnCpusList) {
  for (const auto& op : widest_ops()) {
    const bool throws = op.name == "bilinear" || op.name == "cross" || op.name == "dot" ||
                        op.name == "index_put" || op.name == "tensordot";
    expect(OpPolicy::torch(torch::kCPU), op,
           {kLow, op.name == "tensordot" ? kLow : kWide, throws ? kThrows : kWide});
  }
}

// equal has no dtype to tell, but whether it compares or throws.
TEST_P(WidestType, OfEqualIsWhatItComparesIn) {
  const auto wide = torch::ones({4}, device());
  const auto narrow = torch::ones({4}, device()).to(kLow);
  // Not a 16-bit number: equal to one only when rounded.
  const auto third = wide / 3;
  const auto equal = [&](const OpPolicy& policy, const torch::Tensor& a, const torch::Tensor& b) {
    const Autocast autocast(AutocastOptions(GetParam()).dtype(kLow).policy(policy));
    return at::equal(a, b);
  };
  const auto rounded = third + 1e-4;
  ASSERT_FALSE(third.equal(rounded));
  for (const auto& policy : {OpPolicy::mmcv(), OpPolicy::apex()}) {
    SCOPED_TRACE(policy.base());
    EXPECT_TRUE(equal(policy, wide, narrow));
    EXPECT_TRUE(equal(policy, narrow, narrow));
    EXPECT_FALSE(equal(policy, third, third.to(kLow))) << "compared in 16 bits";
  }
  EXPECT_TRUE(equal(OpPolicy::mmcv(), third, rounded)) << "both float32: 16 bits in MMCV";
  EXPECT_FALSE(equal(OpPolicy::apex(), third, rounded));
}

}  // namespace halfstep
