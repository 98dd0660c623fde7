#include "tests/pretended_cuda/host_kernels.h"

#include <cstring>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include "tests/pretended_cuda/pretended_capture.h"

namespace halfstep::testing {

namespace {

using at::Tensor;
using c10::DispatchKey;
using c10::IValue;
using torch::jit::Stack;

constexpr c10::DispatchKeySet kMathBits({DispatchKey::Conjugate, DispatchKey::Negative});

std::thread::id home;

/// Calls go straight to kernels of the CPU, without autograd and autocast, and unseen by profilers.
class OnHost {
 public:
  OnHost() {
    // Autograd's thread of the device may have been started when there were more or fewer threads:
    // its sums would have other bits.
    if (std::this_thread::get_id() != home) at::init_num_threads();
  }

 private:
  c10::impl::ForceDispatchKeyGuard keys_{
      c10::DispatchKeySet(DispatchKey::BackendSelect),
      c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::autocast_dispatch_keyset};
  at::DisableRecordFunctionGuard unseen_;
};

/// A tensor of the geometry of `like`. A view has its base's keys: those of a tensor that is made
/// in inference mode differ.
Tensor tensor_in(const c10::Storage& storage, const Tensor& like, c10::DispatchKeySet keys,
                 bool view = false) {
  auto tensor =
      view ? at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(storage),
                                                      keys, like.dtype())
           : at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), keys, like.dtype());
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  if (like.is_conj()) tensor._set_conj(true);
  if (like.is_neg()) tensor._set_neg(true);
  return tensor;
}

c10::Storage storage_of(size_t bytes, c10::DataPtr data, c10::Allocator* allocator) {
  return c10::Storage(c10::Storage::use_byte_size_t(), bytes, std::move(data), allocator,
                      /*resizable=*/true);
}

/// Fills memory with a number that no op objects to: as an index, a probability, a divisor.
void fill(void* data, size_t bytes, c10::ScalarType dtype, int64_t integer) {
  const auto size = static_cast<int64_t>(bytes / c10::elementSize(dtype));
  auto all = at::from_blob(data, {size}, at::TensorOptions(c10::kCPU).dtype(dtype));
  if (c10::isIntegralType(dtype, /*includeBool=*/true))
    all.fill_(integer);
  else
    all.fill_(0.5);
}

/// A call's tensors on the device as tensors on the host, and the results back.
class Crossing {
 public:
  /// A stand-in has memory of its own: the call shows the results' shapes, and changes nothing.
  /// Taped ones share the device's, and copy scalars that lie on the host.
  enum class Memory { shared, taped, stand_in };
  explicit Crossing(Memory memory, int64_t integer = 0) : memory_(memory), integer_(integer) {}

  Stack arguments(const Stack& arguments) {
    Stack crossed;
    for (const auto& argument : arguments) crossed.push_back(cross(argument));
    return crossed;
  }

  /// Gives the device's tensors the shapes and memory that the call gave the host's.
  void end() {
    for (const auto& [device, host] : tensors_) {
      if (!device.is_cuda()) continue;
      const auto& storage = host.storage();
      const auto* before = before_.at(storage.unsafeGetStorageImpl());
      if (storage.data() != before && moved_.insert(storage.unsafeGetStorageImpl()).second) {
        auto memory = device_memory(storage, host.scalar_type());
        auto* impl = device.storage().unsafeGetStorageImpl();
        impl->set_data_ptr_noswap(std::move(memory));
        impl->set_nbytes(storage.nbytes());
      }
      if (device.sizes() != host.sizes() || device.strides() != host.strides() ||
          device.storage_offset() != host.storage_offset())
        device.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(),
                                                            host.storage_offset());
    }
  }

  /// A result: the argument it is, a view of one, or a new tensor, which is poison where the call
  /// had stand-ins.
  Tensor result(const Tensor& host) {
    const auto index = result_++;
    const auto same = by_host_.find(host.unsafeGetTensorImpl());
    if (same != by_host_.end()) return tensors_[same->second].first;
    auto& [storage, base] = to_device_[host.storage().unsafeGetStorageImpl()];
    if (!storage) {
      results_.push_back(host);  // its storage's address is taken as long as it lives
      const auto bytes = host.storage().nbytes();
      storage =
          storage_of(bytes, device_memory(host.storage(), host.scalar_type()), &device_allocator());
      places_.push_back({index, storage.mutable_data(), bytes});
    }
    if (!base.defined()) return tensor_in(storage, host, c10::DispatchKeySet(DispatchKey::CUDA));
    return tensor_in(storage, host, base.key_set() - kMathBits, /*view=*/true);
  }
  std::vector<Tape::Place> take_places() { return std::move(places_); }

 private:
  IValue cross(const IValue& value) {
    if (value.isDevice()) return c10::Device(c10::kCPU);
    if (value.isGenerator())
      return memory_ == Memory::stand_in ? at::detail::createCPUGenerator() : value;
    return map_tensors(value, [this](const Tensor& tensor) { return to_host(tensor); });
  }

  Tensor to_host(const Tensor& device) {
    const auto found = by_device_.find(device.unsafeGetTensorImpl());
    if (found != by_device_.end()) return tensors_[found->second].second;
    TORCH_CHECK(device.layout() == c10::kStrided, "pretended CUDA: ", device.layout(),
                " tensors are not pretended");
    auto host = device;
    if (device.is_cuda()) {
      auto& storage = to_host_[device.storage().unsafeGetStorageImpl()];
      if (!storage) {
        storage = host_storage(device);
        to_device_[storage.unsafeGetStorageImpl()] = {device.storage(), device};
        before_[storage.unsafeGetStorageImpl()] = storage.data();
      }
      host = tensor_in(storage, device, c10::DispatchKeySet(DispatchKey::CPU));
    } else if (memory_ == Memory::stand_in || (memory_ == Memory::taped && !device.is_pinned())) {
      host = device.clone();
      if (device.unsafeGetTensorImpl()->is_wrapped_number())
        host.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    by_device_[device.unsafeGetTensorImpl()] = tensors_.size();
    by_host_[host.unsafeGetTensorImpl()] = tensors_.size();
    tensors_.emplace_back(device, host);
    return host;
  }

  c10::Storage host_storage(const Tensor& device) const {
    const auto bytes = device.storage().nbytes();
    auto* allocator = c10::GetAllocator(c10::kCPU);
    if (memory_ != Memory::stand_in)
      return storage_of(bytes, {device.storage().mutable_data(), c10::Device(c10::kCPU)},
                        allocator);
    auto memory = allocator->allocate(bytes);
    fill(memory.get(), bytes, device.scalar_type(), integer_);
    return storage_of(bytes, std::move(memory), allocator);
  }

  c10::DataPtr device_memory(const c10::Storage& host, c10::ScalarType dtype) const {
    auto memory = device_allocator().allocate(host.nbytes());
    if (host.nbytes() == 0) return memory;
    if (memory_ == Memory::shared)
      std::memcpy(memory.get(), host.data(), host.nbytes());
    else
      std::memset(memory.get(), c10::isFloatingType(dtype) ? 0xff : 0x7f, host.nbytes());  // NaN
    return memory;
  }

  const Memory memory_;
  const int64_t integer_;
  size_t result_ = 0;
  std::vector<std::pair<Tensor, Tensor>>
      tensors_;  // on the device (or what was given), on the host
  std::vector<Tensor> results_;
  std::unordered_map<const c10::TensorImpl*, size_t> by_device_, by_host_;
  std::unordered_map<const c10::StorageImpl*, c10::Storage> to_host_;
  std::unordered_map<const c10::StorageImpl*, std::pair<c10::Storage, Tensor>> to_device_;  // base
  std::unordered_map<const c10::StorageImpl*, const void*> before_;
  std::set<const c10::StorageImpl*> moved_;
  std::vector<Tape::Place> places_;
};

/// Stands in for a kernel that only CUDA has; a generator follows the op's arguments.
using Instead = void (*)(Stack&);

/// How the CPU computes an op.
class HostOp {
 public:
  HostOp(const c10::OperatorHandle& op, Instead instead) : op_(op), instead_(instead) {
    const auto& schema = op.schema();
    const auto& arguments = schema.arguments();
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i].type()->str() == "Generator?") generator_ = i;
    }
    const auto& returns = schema.returns();
    const bool view = !returns.empty() && returns.front().alias_info() != nullptr &&
                      !returns.front().alias_info()->isWrite();
    moves_no_data_ = view || op.hasTag(at::Tag::inplace_view);
    name_ = schema.name().substr(schema.name().find(':') + 2);
    copies_ = name_ == "copy_";
    indexes_ = name_.find("index") != std::string::npos;
    needs_data_ =
        !indexes_ && !moves_no_data_ &&
        (op.hasTag(at::Tag::data_dependent_output) || op.hasTag(at::Tag::dynamic_output_shape));
    strict_ = name_.starts_with("_fused_") || name_.starts_with("_amp_");
  }

  size_t arguments() const { return op_.schema().arguments().size(); }
  bool moves_no_data() const { return moves_no_data_; }

  void run(Stack& stack) const {
    if (instead_ != nullptr)
      instead_(stack);
    else
      op_.redispatchBoxed(c10::DispatchKeySet(DispatchKey::CPU), &stack);
  }

  /// Names the generators on the host that the call draws from.
  void name_generators(Stack& arguments) const {
    if (instead_ != nullptr) {
      arguments.emplace_back(host_generator());
    } else if (generator_) {
      auto& given = arguments[*generator_];
      given = host_generator(given.isNone() ? at::Generator() : given.toGenerator());
    }
  }

  /// Refuses what CUDA would, and counts the waits.
  void check(const Stack& arguments) const {
    if (copies_) return check_copy(arguments);
    if (needs_data_) host_waits(name_.c_str());
    for (size_t i = 0; i < arguments.size(); ++i) {
      const auto& name = op_.schema().arguments()[i].name();
      const bool indices = indexes_ && arguments[i].isOptionalTensorList();
      map_tensors(arguments[i], [&](const Tensor& tensor) {
        if (indices && (tensor.is_cpu() || tensor.scalar_type() == c10::kBool ||
                        tensor.scalar_type() == c10::kByte))
          host_waits("an index is a mask, or on the host");
        const bool scalar = tensor.dim() == 0 && (!strict_ || name == "lr");
        TORCH_CHECK(tensor.is_cuda() || scalar || indices || moves_no_data_,
                    "Expected all tensors to be on the same device, but got ", name, " is on ",
                    tensor.device(),
                    ", different from other tensors on cuda:0 (when checking "
                    "argument in method wrapper_CUDA_",
                    name_, ")");
        return tensor;
      });
    }
  }

 private:
  static void check_copy(const Stack& arguments) {
    const auto to = arguments[0].toTensor(), from = arguments[1].toTensor();
    const bool non_blocking = arguments[2].toBool();
    if (to.is_cuda() && from.is_cuda()) return;
    const auto& host = to.is_cuda() ? from : to;
    const bool pinned = host.is_pinned();
    if (non_blocking && pinned) return;
    // To the device, pageable memory is read before the call returns.
    if (non_blocking && to.is_cuda() && current_tape() == nullptr) return;
    host_waits(to.is_cuda() ? "a copy from the host" : "a copy to the host");
  }

  c10::OperatorHandle op_;
  Instead instead_;
  std::string name_;
  std::optional<size_t> generator_;
  bool moves_no_data_, copies_, indexes_, needs_data_, strict_;
};

class DeviceKernel final : public c10::OperatorKernel {
 public:
  explicit DeviceKernel(std::shared_ptr<const HostOp> op) : op_(std::move(op)) {}

  void operator()(const c10::OperatorHandle& /*op*/, c10::DispatchKeySet /*keys*/, Stack* stack) {
    Stack arguments = torch::jit::pop(*stack, op_->arguments());
    op_->check(arguments);
    if (!op_->moves_no_data()) count_launch();
    op_->name_generators(arguments);
    const OnHost on_host;
    auto* tape = op_->moves_no_data() ? nullptr : current_tape();
    const auto results = tape == nullptr ? compute(arguments) : put_off(arguments, *tape);
    stack->insert(stack->end(), results.begin(), results.end());
  }

 private:
  static Stack results(const Stack& host, Crossing& crossing) {
    Stack device;
    for (const auto& value : host)
      device.push_back(
          map_tensors(value, [&](const Tensor& tensor) { return crossing.result(tensor); }));
    return device;
  }

  Stack compute(const Stack& arguments) const {
    Crossing crossing(Crossing::Memory::shared);
    auto stack = crossing.arguments(arguments);
    op_->run(stack);
    crossing.end();
    return results(stack, crossing);
  }

  Stack put_off(const Stack& arguments, Tape& tape) const {
    try {
      return put_off(arguments, tape, 0);
    } catch (const c10::Error&) {
      return put_off(arguments, tape, 1);  // zero was a divisor
    }
  }

  Stack put_off(const Stack& arguments, Tape& tape, int64_t integer) const {
    Crossing trial(Crossing::Memory::stand_in, integer);
    auto stack = trial.arguments(arguments);
    op_->run(stack);
    trial.end();
    auto device = results(stack, trial);
    Tape::Call call{[op = op_](Stack& taped) {
                      const OnHost on_host;
                      op->run(taped);
                    },
                    Crossing(Crossing::Memory::taped).arguments(arguments), trial.take_places()};
    tape.add(std::move(call));
    return device;
  }

  std::shared_ptr<const HostOp> op_;
};

void native_dropout(Stack& stack) {
  const auto generator = torch::jit::pop(stack).toGenerator();
  const auto train = torch::jit::pop(stack).toOptional<bool>();
  const auto p = torch::jit::pop(stack).toDouble();
  const auto input = torch::jit::pop(stack).toTensor();
  const double kept = train.value_or(true) ? 1 - p : 1;
  const auto mask = at::empty_like(input, input.options().dtype(c10::kBool));
  const auto output = input.mul(mask.bernoulli_(kept, generator)).mul_(kept == 0 ? 0 : 1 / kept);
  torch::jit::push(stack, output, mask);
}

Tensor empty(at::IntArrayRef sizes, std::optional<c10::ScalarType> dtype,
             std::optional<c10::Layout> layout, std::optional<c10::Device> device,
             std::optional<bool> /*pinned*/, std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK(layout.value_or(c10::kStrided) == c10::kStrided,
              "pretended CUDA: only strided tensors");
  TORCH_CHECK(device.value_or(kPretendedDevice).index() <= 0, "CUDA error: invalid device ordinal");
  return at::detail::empty_generic(sizes, &device_allocator(),
                                   c10::DispatchKeySet(DispatchKey::CUDA),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides,
                     std::optional<c10::ScalarType> dtype, std::optional<c10::Layout> /*layout*/,
                     std::optional<c10::Device> device, std::optional<bool> /*pinned*/) {
  TORCH_CHECK(device.value_or(kPretendedDevice).index() <= 0, "CUDA error: invalid device ordinal");
  return at::detail::empty_strided_generic(sizes, strides, &device_allocator(),
                                           c10::DispatchKeySet(DispatchKey::CUDA),
                                           c10::dtype_or_default(dtype));
}

Tensor& set_storage(Tensor& self, c10::Storage storage, int64_t offset, at::IntArrayRef sizes,
                    at::IntArrayRef strides) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  if (strides.empty() && !sizes.empty()) {
    impl->set_sizes_contiguous(sizes);
    impl->set_storage_offset(offset);
  } else {
    impl->set_sizes_and_strides(sizes, strides, offset);
  }
  return self;
}

Tensor& set_whole_storage(Tensor& self, c10::Storage storage) {
  const auto size = static_cast<int64_t>(storage.nbytes() / self.dtype().itemsize());
  return set_storage(self, std::move(storage), 0, {size}, {1});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(),
                     source.strides());
}

Tensor& set_nothing(Tensor& self) {
  return set_storage(self, storage_of(0, device_allocator().allocate(0), &device_allocator()), 0,
                     {0}, {1});
}

void record_stream(Tensor& /*self*/, c10::Stream /*stream*/) {}

/// None of the fused ones, which have other kernels on CUDA.
int64_t attention_choice(const Tensor& /*query*/, const Tensor& /*key*/, const Tensor& /*value*/,
                         const std::optional<Tensor>& /*mask*/, double /*dropout*/, bool /*causal*/,
                         std::optional<double> /*scale*/, bool /*gqa*/) {
  return static_cast<int64_t>(sdp::SDPBackend::math);
}

const std::set<std::string> kOwn = {"aten::empty.memory_format",
                                    "aten::empty_strided",
                                    "aten::set_",
                                    "aten::set_.source_Storage",
                                    "aten::set_.source_Storage_storage_offset",
                                    "aten::set_.source_Tensor",
                                    "aten::_fused_sdp_choice",
                                    "aten::_efficientzerotensor"};

bool is_for_cpus_only(const std::string& name) {
  for (const auto* part : {"cpu", "mkldnn", "fbgemm", "onednn"}) {
    if (name.find(part) != std::string::npos) return true;
  }
  return false;
}

/// CUDA has kernels for what the CPU has, and for these.
bool has_kernel_on_cuda(const c10::OperatorHandle& op) {
  const auto& name = op.operator_name().name;
  if (name.starts_with("aten::_foreach_")) return name != "aten::_foreach_copy_";
  for (const auto* more : {"aten::copy_", "aten::convolution", "aten::_convolution",
                           "aten::convolution_backward", "aten::native_dropout"}) {
    if (name == more) return true;
  }
  return op.hasKernelForDispatchKey(DispatchKey::CPU);
}

}  // namespace

void register_device_kernels() {
  home = std::this_thread::get_id();
  auto& dispatcher = c10::Dispatcher::singleton();
  auto& kernels = *new std::vector<c10::RegistrationHandleRAII>;  // they stay
  for (const auto& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findOp(name);
    const auto text = c10::toString(name);
    if (!op || !op->hasSchema() || !text.starts_with("aten::") || kOwn.count(text) != 0 ||
        is_for_cpus_only(text) || !has_kernel_on_cuda(*op))
      continue;
    const Instead instead = text == "aten::native_dropout" ? native_dropout : nullptr;
    kernels.push_back(dispatcher.registerImpl(
        name, DispatchKey::CUDA,
        c10::KernelFunction::makeFromBoxedFunctor(
            std::make_unique<DeviceKernel>(std::make_shared<HostOp>(*op, instead))),
        std::nullopt, nullptr, "pretended CUDA"));
  }
  auto& own =
      *new torch::Library(torch::Library::IMPL, "aten", DispatchKey::CUDA, __FILE__, __LINE__);
  own.impl("empty.memory_format", empty);
  own.impl("empty_strided", empty_strided);
  own.impl("set_", set_nothing);
  own.impl("set_.source_Storage", set_whole_storage);
  own.impl("set_.source_Storage_storage_offset", set_storage);
  own.impl("set_.source_Tensor", set_tensor);
  own.impl("record_stream", record_stream);
  own.impl("_fused_sdp_choice", attention_choice);
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(attention_choice);
}

}  // namespace halfstep::testing
