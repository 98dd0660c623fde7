#include "halfstep/autocast/autocast.h"

#include <iostream>
#include <set>

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/record_function.h>
#include <torch/torch.h>
#include <torch/version.h>

#include "tests/autocast/op_cases.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

namespace halfstep {

using testing::OpCase;
using testing::Policy;
using testing::Tensors;

namespace {

using Names = std::set<std::string>;

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

// How LibTorch 2.11's lists differ from those of the versions after it.
constexpr bool old_lists = TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 12;

Names only_in_old_lists(c10::DeviceType device_type) {
  if (!old_lists) return {};
  if (device_type == torch::kCPU)
    return {"cholesky", "index_copy.dimname", "prod.dim_Dimname", "qr"};
  return {"cumprod.dimname",  "cumsum.dimname",  "log_softmax.Dimname", "norm.names_ScalarOpt_dim",
          "prod.dim_Dimname", "softmax.Dimname", "sum.dim_DimnameList"};
}

Names not_in_old_lists() {
  return old_lists ? Names{"linalg_matrix_sqrth", "rms_norm"} : Names{};
}

// The ops this thread calls while the object lives, also those without a floating-point result.
class OpsCalled {
 public:
  OpsCalled()
      : handle_(at::addThreadLocalCallback(
            at::RecordFunctionCallback(&note).scopes({at::RecordScope::FUNCTION}))) {
    names.clear();
  }
  ~OpsCalled() { at::removeCallback(handle_); }
  OpsCalled(const OpsCalled&) = delete;
  OpsCalled& operator=(const OpsCalled&) = delete;

  bool has(const std::string& name) const { return names.contains(name); }

 private:
  static std::unique_ptr<at::ObserverContext> note(const at::RecordFunction& call) {
    names.insert(call.name());
    return nullptr;
  }
  inline static thread_local Names names;
  at::CallbackHandle handle_;
};

// "float32 in, bfloat16 region", … of one call, as a device type and a 16-bit dtype.
struct Where {
  c10::DeviceType device_type;
  c10::ScalarType dtype;
};

Tensors cast(const Tensors& tensors, c10::ScalarType dtype) {
  Tensors result;
  for (const auto& tensor : tensors)
    result.push_back(tensor.is_floating_point() ? tensor.to(dtype) : tensor);
  return result;
}

}  // namespace

class AutocastOps : public ::testing::TestWithParam<Where> {
 protected:
  void SetUp() override {
    if (GetParam().device_type == torch::kCUDA) HALFSTEP_REQUIRE_CUDA(1);
  }

  c10::Device device() const {
    return GetParam().device_type == torch::kCUDA ? c10::Device(torch::kCUDA, 0)
                                                  : c10::Device(torch::kCPU);
  }
  c10::ScalarType low() const { return GetParam().dtype; }
  AutocastOptions region() const {
    return AutocastOptions(GetParam().device_type).dtype(GetParam().dtype);
  }

  // Calls `body` for each case under a policy, with its inputs in float32.
  template <class Body>
  void for_each_case(Policy policy, const Body& body) {
    int count = 0;
    for (const auto& op : testing::op_cases()) {
      if (op.policy(GetParam().device_type) != policy || not_in_old_lists().count(op.op)) continue;
      SCOPED_TRACE(op.op);
      torch::manual_seed(11);
      Tensors inputs;
      for (const auto& input : op.inputs) inputs.push_back(input.make(device()));
      ++count;
      try {
        body(op, inputs);
      } catch (const std::exception& error) {
        ADD_FAILURE() << error.what();
      }
    }
    EXPECT_GT(count, 0) << "no op is under this policy: nothing was tested";
  }

  // Expects the call on `inputs` in a region to give what the call on inputs cast to `dtype` by
  // hand gives without, to the bit, and its floating-point outputs to be of that dtype.
  void expect_runs_in(c10::ScalarType dtype, const OpCase& op, const Tensors& inputs) {
    Tensors expected;
    try {
      expected = op.call(cast(inputs, dtype));
    } catch (const std::exception&) {
      if (!op.needs_hardware) throw;
      std::cerr << "SKIPPED, NOTHING WAS TESTED: this CPU has no " << op.op << " in " << dtype
                << "\n";
      const Autocast autocast(region());
      EXPECT_ANY_THROW(op.call(inputs)) << "autocast ran it in another dtype";
      return;
    }
    Tensors outputs;
    {
      const OpsCalled called;
      const Autocast autocast(region());
      outputs = op.call(inputs);
      EXPECT_TRUE(called.has("aten::" + op.op.substr(0, op.op.find('.'))))
          << "the case does not call its op";
    }
    ASSERT_EQ(outputs.size(), expected.size());
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (outputs[i].is_floating_point() || outputs[i].is_complex()) {
        EXPECT_EQ(c10::toRealValueType(outputs[i].scalar_type()), dtype);
      }
      // What LAPACK finds depends on where its work memory lies.
      if (op.op == "linalg_lstsq" && outputs[i].is_floating_point())
        testing::expect_close(outputs[i], expected[i], testing::tolerance(dtype, "matmul"));
      else
        testing::expect_same_bits(outputs[i], expected[i]);
    }
  }
};

/// What only CUDA's list has.
class AutocastCudaOps : public AutocastOps {};

std::string where_name(const ::testing::TestParamInfo<Where>& where) {
  return (where.param.device_type == torch::kCUDA ? "CUDA_" : "CPU_") +
         std::string(c10::toString(where.param.dtype));
}

INSTANTIATE_TEST_SUITE_P(On, AutocastOps,
                         ::testing::Values(Where{torch::kCPU, torch::kBFloat16},
                                           Where{torch::kCPU, torch::kHalf},
                                           Where{torch::kCUDA, torch::kHalf},
                                           Where{torch::kCUDA, torch::kBFloat16}),
                         where_name);
INSTANTIATE_TEST_SUITE_P(On, AutocastCudaOps,
                         ::testing::Values(Where{torch::kCUDA, torch::kHalf},
                                           Where{torch::kCUDA, torch::kBFloat16}),
                         where_name);

TEST_P(AutocastOps, LowerPrecision) {
  for_each_case(Policy::lower, [&](const OpCase& op, const Tensors& inputs) {
    expect_runs_in(low(), op, inputs);
  });
}

TEST_P(AutocastOps, Float32) {
  for_each_case(Policy::fp32, [&](const OpCase& op, const Tensors& inputs) {
    expect_runs_in(torch::kFloat, op, cast(inputs, low()));
  });
}

TEST_P(AutocastOps, Promote) {
  for_each_case(Policy::promote, [&](const OpCase& op, const Tensors& inputs) {
    expect_runs_in(low(), op, cast(inputs, low()));
    for (size_t wide = 0; wide < inputs.size(); ++wide) {
      if (!inputs[wide].is_floating_point()) continue;
      auto mixed = cast(inputs, low());
      mixed[wide] = inputs[wide];
      expect_runs_in(torch::kFloat, op, mixed);
    }
  });
}

TEST_P(AutocastCudaOps, Float32ByDtypeArgument) {
  for (const auto policy : {Policy::set_dtype, Policy::append_dtype}) {
    for_each_case(policy, [&](const OpCase& op, const Tensors& inputs) {
      expect_runs_in(torch::kFloat, op, cast(inputs, low()));
    });
  }
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
