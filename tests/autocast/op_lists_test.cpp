#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "tests/autocast/op_expectations.h"

namespace halfstep {

using testing::AutocastOps;
using testing::cast;
using testing::Names;
using testing::not_in_old_lists;
using testing::old_lists;
using testing::OpCase;
using testing::Policy;
using testing::Tensors;
using testing::Where;

namespace {

// The ops LibTorch casts on a device type, without "aten::".
Names registered(c10::DeviceType device_type) {
  const auto key = at::autocast::get_autocast_dispatch_key_from_device_type(device_type);
  Names names;
  for (const auto& op : c10::Dispatcher::singleton().getRegistrationsForDispatchKey(key)) {
    const std::string aten = "aten::";
    if (op.name.rfind(aten, 0) != 0) continue;
    const auto name = op.name.substr(aten.size());
    names.insert(op.overload_name.empty() ? name : name + "." + op.overload_name);
  }
  return names;
}

Names minus(const Names& from, const Names& what) {
  Names rest;
  std::set_difference(from.begin(), from.end(), what.begin(), what.end(),
                      std::inserter(rest, rest.end()));
  return rest;
}

Names only_in_old_lists(c10::DeviceType device_type) {
  if (!old_lists) return {};
  if (device_type == torch::kCPU)
    return {"cholesky", "index_copy.dimname", "prod.dim_Dimname", "qr"};
  return {"cumprod.dimname",  "cumsum.dimname",  "log_softmax.Dimname", "norm.names_ScalarOpt_dim",
          "prod.dim_Dimname", "softmax.Dimname", "sum.dim_DimnameList"};
}

}  // namespace

/// What only CUDA's list has.
class AutocastCudaOps : public AutocastOps {};

INSTANTIATE_TEST_SUITE_P(On, AutocastOps,
                         ::testing::Values(Where{torch::kCPU, torch::kBFloat16},
                                           Where{torch::kCPU, torch::kHalf},
                                           Where{torch::kCUDA, torch::kHalf},
                                           Where{torch::kCUDA, torch::kBFloat16}),
                         testing::where_name);
INSTANTIATE_TEST_SUITE_P(On, AutocastCudaOps,
                         ::testing::Values(Where{torch::kCUDA, torch::kHalf},
                                           Where{torch::kCUDA, torch::kBFloat16}),
                         testing::where_name);

TEST_P(AutocastOps, LowerPrecision) {
  expect_lower_precision();
}
TEST_P(AutocastOps, Float32) {
  expect_float32();
}
TEST_P(AutocastOps, Promote) {
  expect_promote();
}
TEST_P(AutocastCudaOps, Float32ByDtypeArgument) {
  expect_float32_by_dtype_argument();
}

TEST_P(AutocastCudaOps, Banned) {
  for_each_case(Policy::banned, [&](const OpCase& op, const Tensors& inputs) {
    const Autocast autocast(region());
    EXPECT_THROW(op.call(inputs), c10::Error);
  });
}

// The calls themselves are right, also those no CUDA device is here to run.
TEST_P(AutocastOps, EveryCaseRunsWithoutAutocast) {
  int count = 0;
  for (const auto& op : testing::op_cases()) {
    if (GetParam().device_type == torch::kCPU ? op.cuda_only : op.cuda == Policy::none) continue;
    if (op.op == "linalg_matrix_sqrth" && old_lists) continue;
    SCOPED_TRACE(op.op);
    Tensors inputs;
    for (const auto& input : op.inputs) inputs.push_back(input.make(device()));
    if (op.op == "_scaled_dot_product_flash_attention") inputs = cast(inputs, low());
    try {
      for (const auto& output : op.call(inputs)) EXPECT_TRUE(output.defined());
      ++count;
    } catch (const c10::Error& error) {
      ADD_FAILURE() << error.what_without_backtrace();
    }
  }
  EXPECT_GT(count, 100);
}

// Ops that promote by themselves and so need no listing.
TEST_P(AutocastOps, BuiltinPromotion) {
  const auto wide = torch::randn({8}, device());
  const auto narrow = torch::randn({8}, device()).to(low());
  const std::vector<at::Tensor (*)(const at::Tensor&, const at::Tensor&)> comparisons{
      at::eq, at::ge, at::gt, at::le, at::lt, at::ne};
  for (const auto compare : comparisons) {
    torch::Tensor result;
    {
      const Autocast autocast(region());
      result = compare(wide, narrow);
    }
    EXPECT_EQ(result.scalar_type(), torch::kBool);
    testing::expect_same_bits(result, compare(wide, narrow.to(torch::kFloat)));
  }
  const std::vector<std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>> arithmetic{
      [](const at::Tensor& a, const at::Tensor& b) { return a + b; },
      [](const at::Tensor& a, const at::Tensor& b) { return a / b; },
      [](const at::Tensor& a, const at::Tensor& b) { return a * b; },
      [](const at::Tensor& a, const at::Tensor& b) { return at::add(a, b); },
      [](const at::Tensor& a, const at::Tensor& b) { return at::div(a, b); },
      [](const at::Tensor& a, const at::Tensor& b) { return at::mul(a, b); },
      [](const at::Tensor& a, const at::Tensor& b) {
        return at::cat({b, a});
      },
      [](const at::Tensor& a, const at::Tensor& b) {
        return at::stack({b, a});
      }};
  for (const auto& compute : arithmetic) {
    torch::Tensor result;
    {
      const Autocast autocast(region());
      result = compute(wide, narrow);
    }
    EXPECT_EQ(result.scalar_type(), torch::kFloat);
    testing::expect_same_bits(result, compute(wide, narrow.to(torch::kFloat)));
  }
}

// Tensor's methods are the same ops.
TEST_P(AutocastOps, Methods) {
  const auto a = torch::randn({8, 8}, device());
  const Autocast autocast(region());
  EXPECT_EQ(a.matmul(a).scalar_type(), low());
  EXPECT_EQ(a.mm(a).scalar_type(), low());
  testing::expect_same_bits(a.addmm(a, a), at::addmm(a, a, a));
  testing::expect_same_bits(a.to(low()).prod(), at::prod(a.to(low())));
  EXPECT_EQ(a.to(low()).prod().scalar_type(), torch::kFloat);
  if (GetParam().device_type == torch::kCUDA) {
    EXPECT_EQ(a.abs().to(low()).pow(1.5).scalar_type(), torch::kFloat);
  }
}

// As interpreters call ops: through a stack.
TEST_P(AutocastOps, BoxedCallOfCat) {
  const auto wide = torch::randn({8}, device());
  const auto narrow = torch::randn({8}, device()).to(low());
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("aten::cat", "");
  const Autocast autocast(region());
  torch::jit::Stack stack{Tensors{narrow, wide}, 0};
  op.callBoxed(stack);
  testing::expect_same_bits(stack.at(0).toTensor(), at::cat({narrow.to(torch::kFloat), wide}));
}

// In-place and out= overloads are not listed.
TEST_P(AutocastOps, InPlaceAndOutAreNotCast) {
  auto a = torch::randn({8, 8}, device());
  const auto b = torch::randn({8, 8}, device());
  auto out = torch::empty({8, 8}, device());
  const Autocast autocast(region());
  a.addmm_(b, b);
  EXPECT_EQ(a.scalar_type(), torch::kFloat);
  at::mm_out(out, a, b);
  EXPECT_EQ(out.scalar_type(), torch::kFloat);
  EXPECT_THROW(at::mm_out(out, a.to(low()), b), c10::Error);
}

// CPU's list is not CUDA's: these run in float32 on CUDA and in their input's dtype here.
TEST(AutocastCpuList, LeavesSoftmaxNormsAndSumsInTheirInputsDtype) {
  const auto x = torch::randn({8, 8}).to(torch::kBFloat16);
  const Autocast autocast(AutocastOptions(torch::kCPU).dtype(torch::kBFloat16));
  for (const auto& y : {at::softmax(x, 1), at::log_softmax(x, 1), at::layer_norm(x, {8}),
                        at::exp(x), at::sum(x), at::pow(x, 2), at::cumsum(x, 0), at::norm(x),
                        at::log(x.abs()), at::group_norm(x.view({2, 4, 8}), 2)})
    EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
}

class AutocastOpLists : public ::testing::TestWithParam<c10::DeviceType> {};
INSTANTIATE_TEST_SUITE_P(Of, AutocastOpLists, ::testing::Values(torch::kCPU, torch::kCUDA),
                         testing::device_param_name);

// The cases above are the whole list of the running LibTorch. A new version that fails here has
// changed what autocast does: read its lists, then add or remove cases.
TEST_P(AutocastOpLists, CasesAreLibTorchsList) {
  const auto device_type = GetParam();
  Names cases;
  for (const auto& op : testing::op_cases()) {
    if (op.policy(device_type) != Policy::none) cases.insert(op.op);
  }
  const auto list = registered(device_type);
  auto more = minus(minus(list, cases), only_in_old_lists(device_type));
  more.erase("_cudnn_rnn");  // tested as a whole LSTM; only LibTorch's CUDA library registers it
  EXPECT_EQ(more, Names{}) << "listed by LibTorch " << TORCH_VERSION << " without a case here";
  EXPECT_EQ(minus(minus(cases, list), not_in_old_lists()), Names{})
      << "a case here, but not listed by LibTorch " << TORCH_VERSION;
  EXPECT_EQ(minus(only_in_old_lists(device_type), list), Names{});
}

}  // namespace halfstep
