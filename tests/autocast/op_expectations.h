#pragma once
#include "halfstep/autocast/autocast.h"

#include <iostream>
#include <optional>
#include <set>

#include <ATen/record_function.h>
#include <torch/torch.h>
#include <torch/version.h>

#include "tests/autocast/op_cases.h"
#include "tests/support/devices.h"
#include "tests/support/tolerance.h"

/// What every listed op must do in a region: shared by the tests of stock autocast and of policies.
namespace halfstep::testing {

using Names = std::set<std::string>;

/// Whether LibTorch's lists are those of 2.11, before some ops came and went.
constexpr bool old_lists = TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 12;

inline Names not_in_old_lists() {
  return old_lists ? Names{"linalg_matrix_sqrth", "rms_norm"} : Names{};
}

/// The ops this thread calls while the object lives, also those without a floating-point result.
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

/// A region's device type and 16-bit dtype, and whose list it follows: LibTorch's own for the
/// device type, or a policy with that of another.
struct Where {
  c10::DeviceType device_type;
  c10::ScalarType dtype;
  std::optional<c10::DeviceType> policy = std::nullopt;

  c10::DeviceType list() const { return policy.value_or(device_type); }
};

inline Tensors cast(const Tensors& tensors, c10::ScalarType dtype) {
  Tensors result;
  for (const auto& tensor : tensors)
    result.push_back(tensor.is_floating_point() ? tensor.to(dtype) : tensor);
  return result;
}

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
    AutocastOptions options(GetParam().device_type);
    options.dtype(GetParam().dtype);
    if (GetParam().policy) options.policy(OpPolicy::torch(*GetParam().policy));
    return options;
  }

  // Calls `body` for each case under a policy, with its inputs in float32.
  template <class Body>
  void for_each_case(Policy policy, const Body& body) {
    int count = 0;
    for (const auto& op : testing::op_cases()) {
      if (op.policy(GetParam().list()) != policy || not_in_old_lists().count(op.op)) continue;
      if (op.cuda_only && GetParam().device_type != torch::kCUDA) continue;
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

  void expect_lower_precision() {
    for_each_case(Policy::lower, [&](const OpCase& op, const Tensors& inputs) {
      expect_runs_in(low(), op, inputs);
    });
  }

  void expect_float32() {
    for_each_case(Policy::fp32, [&](const OpCase& op, const Tensors& inputs) {
      expect_runs_in(torch::kFloat, op, cast(inputs, low()));
    });
  }

  void expect_promote() {
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

  void expect_float32_by_dtype_argument() {
    for (const auto policy : {Policy::set_dtype, Policy::append_dtype}) {
      for_each_case(policy, [&](const OpCase& op, const Tensors& inputs) {
        expect_runs_in(torch::kFloat, op, cast(inputs, low()));
      });
    }
  }
};

inline std::string where_name(const ::testing::TestParamInfo<Where>& where) {
  return (where.param.device_type == torch::kCUDA ? "CUDA_" : "CPU_") +
         std::string(c10::toString(where.param.dtype)) +
         (where.param.list() == where.param.device_type ? "" : "_OtherList");
}

}  // namespace halfstep::testing
