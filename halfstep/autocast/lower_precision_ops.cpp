#include "halfstep/autocast/lower_precision_ops.h"

#include "halfstep/autocast/front_kernel.h"

#include <mutex>
#include <set>
#include <string>

namespace halfstep::detail {

namespace {

constexpr const char* kOnCpu[] = {
    "aten::conv1d",
    "aten::conv1d.padding",
    "aten::conv2d",
    "aten::conv2d.padding",
    "aten::conv3d",
    "aten::conv3d.padding",
    "aten::bmm",
    "aten::mm",
    "aten::linalg_vecdot",
    "aten::baddbmm",
    "aten::addmm",
    "aten::_addmm_activation",
    "aten::addbmm",
    "aten::linear",
    "aten::_convolution.deprecated",
    "aten::matmul",
    "aten::conv_tbc",
    "aten::conv_transpose1d",
    "aten::conv_transpose2d.input",
    "aten::conv_transpose3d.input",
    "aten::prelu",
};

constexpr const char* kOnCuda[] = {
    "aten::_convolution.deprecated",
    "aten::_convolution",
    "aten::conv1d",
    "aten::conv2d",
    "aten::conv3d",
    "aten::conv_tbc",
    "aten::conv_transpose1d",
    "aten::conv_transpose2d.input",
    "aten::conv_transpose3d.input",
    "aten::convolution",
    "aten::prelu",
    "aten::addmm",
    "aten::addmv",
    "aten::addr",
    "aten::matmul",
    "aten::einsum",
    "aten::mm",
    "aten::mv",
    "aten::linalg_vecdot",
    "aten::linear",
    "aten::addbmm",
    "aten::baddbmm",
    "aten::bmm",
};

c10::DispatchKey autocast_key(c10::DeviceType device_type) {
  return device_type == c10::kCUDA ? c10::DispatchKey::AutocastCUDA : c10::DispatchKey::AutocastCPU;
}

c10::OperatorName operator_name(const std::string& op) {
  const auto dot = op.find('.');
  return dot == std::string::npos ? c10::OperatorName(op, "")
                                  : c10::OperatorName(op.substr(0, dot), op.substr(dot + 1));
}

/// The op where the running LibTorch autocasts it.
std::optional<c10::OperatorHandle> find_op(const char* name, c10::DispatchKey key) {
  auto op = c10::Dispatcher::singleton().findSchema(operator_name(name));
  if (!op || !op->hasKernelForDispatchKey(key)) return std::nullopt;
  return op;
}

/// Lets `prepare` see the arguments before the stock kernel does.
class PreparedKernel final : public FrontKernel {
 public:
  PreparedKernel(c10::DeviceType device_type, PrepareArguments prepare)
      : device_type_(device_type), prepare_(prepare) {}

  void call(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack,
            const c10::SafeKernelFunction& stock) override {
    auto* end = stack->data() + stack->size();
    prepare_(device_type_, end - op.schema().arguments().size(), end);
    stock.callBoxed(op, keys, stack);
  }

 private:
  c10::DeviceType device_type_;
  PrepareArguments prepare_;
};

}  // namespace

std::vector<const char*> lower_precision_ops(c10::DeviceType device_type) {
  std::vector<const char*> names;
  const auto add = [&](const auto& list) {
    for (const char* name : list) {
      if (find_op(name, autocast_key(device_type))) names.push_back(name);
    }
  };
  if (device_type == c10::kCPU) add(kOnCpu);
  if (device_type == c10::kCUDA) add(kOnCuda);
  return names;
}

void prepare_lower_precision_ops(c10::DeviceType device_type, PrepareArguments prepare) {
  static std::mutex mutex;
  static std::set<c10::DeviceType> prepared;
  const std::lock_guard lock(mutex);
  if (!prepared.insert(device_type).second) return;
  const auto key = autocast_key(device_type);
  for (const char* name : lower_precision_ops(device_type))
    put_in_front(*find_op(name, key), key, std::make_unique<PreparedKernel>(device_type, prepare));
}

}  // namespace halfstep::detail
