#include "tests/pretended_cuda/pretended_cuda.h"

#include "halfstep/graph/capture/device_capture.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "tests/pretended_cuda/host_kernels.h"
#include "tests/pretended_cuda/pretended_capture.h"

namespace halfstep::testing {

namespace {

std::atomic<int64_t> syncs = 0, launches = 0;

char* new_memory(size_t bytes) {
  constexpr size_t alignment = 512;  // as CUDA's
  auto* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  TORCH_CHECK(memory != nullptr, "pretended CUDA: out of memory");
  return static_cast<char*>(memory);
}

/// Memory that a tape which is recorded meanwhile has a share in.
class DeviceAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, kPretendedDevice};
    std::shared_ptr<char> memory(new_memory(bytes), std::free);
    if (auto* tape = current_tape()) tape->hold(memory);
    auto* data = memory.get();
    return {data, new std::shared_ptr<char>(std::move(memory)),
            [](void* held) { delete static_cast<std::shared_ptr<char>*>(held); }, kPretendedDevice};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};

/// Ordinary memory that is known to be "pinned".
class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    auto* data = new_memory(bytes + 1);
    const std::lock_guard lock(mutex());
    ends()[data] = data + bytes;
    return {data, data, release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
  static bool owns(const void* data) {
    const std::lock_guard lock(mutex());
    const auto* byte = static_cast<const char*>(data);
    const auto after = ends().upper_bound(byte);
    return after != ends().begin() && byte < std::prev(after)->second;
  }

 private:
  static std::mutex& mutex() {
    static auto* const all = new std::mutex;
    return *all;
  }
  static std::map<const char*, const char*>& ends() {
    static auto* const all = new std::map<const char*, const char*>;
    return *all;
  }
  static void release(void* data) {
    {
      const std::lock_guard lock(mutex());
      ends().erase(static_cast<const char*>(data));
    }
    std::free(data);
  }
};

/// A generator that says it's the device's, and draws as the CPU's do.
class DeviceGenerator final : public c10::GeneratorImpl {
 public:
  explicit DeviceGenerator(at::Generator host)
      : GeneratorImpl(kPretendedDevice, c10::DispatchKeySet(c10::DispatchKey::CUDA)),
        host_(std::move(host)) {}
  const at::Generator& host() const { return host_; }
  void set_current_seed(uint64_t seed) override {
    const std::lock_guard lock(host_.mutex());
    host_.set_current_seed(seed);
  }
  void set_offset(uint64_t offset) override { host_.set_offset(offset); }
  uint64_t get_offset() const override { return host_.get_offset(); }
  uint64_t current_seed() const override { return host_.current_seed(); }
  uint64_t seed() override {
    const std::lock_guard lock(host_.mutex());
    return host_.seed();
  }
  void set_state(const c10::TensorImpl& state) override {
    const std::lock_guard lock(host_.mutex());
    host_.unsafeGetGeneratorImpl()->set_state(state);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    const std::lock_guard lock(host_.mutex());
    return host_.unsafeGetGeneratorImpl()->get_state();
  }

 private:
  DeviceGenerator* clone_impl() const override {
    const std::lock_guard lock(host_.mutex());
    return new DeviceGenerator(host_.clone());
  }

  mutable at::Generator host_;
};

at::Generator new_generator() {
  return at::make_generator<DeviceGenerator>(at::detail::createCPUGenerator());
}

const at::Generator& default_generator() {
  static auto* const generator = new at::Generator(new_generator());
  return *generator;
}

thread_local c10::StreamId stream_of_thread = 0;
std::atomic<c10::StreamId> last_stream = 0;

/// Everything is done at once: an event or a stream never has anything left to wait for.
class DeviceGuardImpl final : public c10::impl::DeviceGuardImplInterface {
 public:
  using Clock = std::chrono::steady_clock;
  using Stream = c10::Stream;
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device device) const override {
    setDevice(device);
    return kPretendedDevice;
  }
  c10::Device getDevice() const override { return kPretendedDevice; }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.is_cuda() && device.index() <= 0, "CUDA error: invalid device ordinal");
  }
  void uncheckedSetDevice(c10::Device /*device*/) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  Stream getStream(c10::Device /*device*/) const override { return stream(stream_of_thread); }
  Stream getDefaultStream(c10::Device /*device*/) const override { return stream(0); }
  Stream getStreamFromGlobalPool(c10::Device /*device*/, bool /*high*/) const override {
    return stream(++last_stream);
  }
  Stream getNewStream(c10::Device /*device*/, int /*priority*/) const override {
    return stream(++last_stream);
  }
  Stream exchangeStream(Stream next) const override {
    return stream(std::exchange(stream_of_thread, next.id()));
  }
  bool queryStream(const Stream& /*stream*/) const override { return true; }
  void synchronizeStream(const Stream& /*stream*/) const override {
    host_waits("a stream is waited for");
  }

  void record(void** event, const Stream& /*stream*/, const c10::DeviceIndex /*index*/,
              const c10::EventFlag /*flag*/) const override {
    if (*event == nullptr) *event = new Clock::time_point;
    *static_cast<Clock::time_point*>(*event) = Clock::now();
  }
  void destroyEvent(void* event, const c10::DeviceIndex /*index*/) const noexcept override {
    delete static_cast<Clock::time_point*>(event);
  }
  void block(void* /*event*/, const Stream& /*stream*/) const override {}
  bool queryEvent(void* /*event*/) const override { return true; }
  void synchronizeEvent(void* /*event*/) const override { host_waits("an event is waited for"); }
  void synchronizeDevice(const c10::DeviceIndex /*index*/) const override {
    host_waits("the device is waited for");
  }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex /*index*/) const override {
    return std::chrono::duration<double, std::milli>(*static_cast<Clock::time_point*>(to) -
                                                     *static_cast<Clock::time_point*>(from))
        .count();
  }

 private:
  static Stream stream(c10::StreamId id) { return Stream(Stream::UNSAFE, kPretendedDevice, id); }
};

/// What LibTorch asks of a CUDA build. All that isn't answered here, like hasCuDNN, is "no".
class Hooks final : public at::CUDAHooksInterface {
 public:
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex /*index*/) const override { return true; }
  int getNumGPUs() const override { return 1; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex /*index*/) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex /*index*/) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex /*index*/) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex /*index*/) const override {
    return default_generator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex /*index*/) const override {
    return new_generator();
  }
  c10::Device getDeviceFromPtr(void* /*data*/) const override { return kPretendedDevice; }
  bool isPinnedPtr(const void* data) const override { return PinnedAllocator::owns(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    static auto* const allocator = new PinnedAllocator;
    return allocator;
  }
  c10::Allocator* getCUDADeviceAllocator() const override { return &device_allocator(); }
  void deviceSynchronize(c10::DeviceIndex /*index*/) const override {
    host_waits("the device is waited for");
  }
};

}  // namespace

c10::Allocator& device_allocator() {
  static auto* const allocator = new DeviceAllocator;
  return *allocator;
}

at::Generator host_generator(const at::Generator& generator) {
  const auto& asked = generator.defined() ? generator : default_generator();
  TORCH_CHECK(asked.device().is_cuda(), "Expected a 'cuda' device type for generator but found '",
              asked.device(), "'");
  return static_cast<DeviceGenerator*>(asked.unsafeGetGeneratorImpl())->host();
}

void count_launch() {
  ++launches;
}

void host_waits(const char* why) {
  if (auto* tape = current_tape()) tape->refuse(why);
  ++syncs;
}

int64_t pretended_syncs() {
  return syncs;
}

int64_t pretended_launches() {
  return launches;
}

void pretend_cuda() {
  static const bool once = [] {
    at::CUDAHooksRegistry()->Register(
        "CUDAHooks", [](at::CUDAHooksArgs) -> std::unique_ptr<at::CUDAHooksInterface> {
          return std::make_unique<Hooks>();
        });
    TORCH_CHECK(at::hasCUDA(), "pretended CUDA: somebody asked for CUDA before");
    const c10::impl::DeviceGuardImplRegistrar guard(c10::kCUDA, new DeviceGuardImpl);
    c10::SetAllocator(c10::kCUDA, &device_allocator());
    register_device_kernels();
    detail::capture_maker(c10::kCUDA) = [](c10::Device device) {
      return std::make_unique<PretendedCapture>(device);
    };
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace halfstep::testing
