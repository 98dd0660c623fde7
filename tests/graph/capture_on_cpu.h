#pragma once
#include "halfstep/graph/capture/device_capture.h"

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/graph/step_test.h"
#include <gtest/gtest.h>

namespace halfstep::testing {

/// What was asked of captures on the CPU, and how they answer.
struct CapturingCpu {
  int made = 0, warm_ups = 0, captures = 0, launches = 0;
  size_t generators = 0;
  std::string busy, refuses;
};

/// Captures a run by keeping it, and launches it by running it: for decisions. What a launch sees
/// of the host is tested by tests/pretended_cuda.
class CaptureOnCpu final : public detail::DeviceCapture {
 public:
  explicit CaptureOnCpu(CapturingCpu& device) : device_(device) { ++device.made; }
  std::string why_not_now() const override { return device_.busy; }
  detail::StepResults warm_up(const std::function<detail::StepResults()>& run) override {
    ++device_.warm_ups;
    return run();
  }
  void capture(const std::function<void()>& run,
               const std::vector<at::Generator>& generators) override {
    if (!device_.refuses.empty()) throw std::runtime_error(device_.refuses);
    ++device_.captures;
    device_.generators = generators.size();
    run_ = run;
  }
  void launch(const std::function<void()>& first) override {
    ++device_.launches;
    first();
    run_();
  }

 private:
  CapturingCpu& device_;
  std::function<void()> run_;
};

/// While it lives, graphs on the CPU think that it captures.
class CpuCaptures {
 public:
  CpuCaptures() {
    detail::capture_maker(c10::kCPU) = [this](c10::Device) {
      return std::make_unique<CaptureOnCpu>(cpu);
    };
  }
  ~CpuCaptures() { detail::capture_maker(c10::kCPU) = nullptr; }
  CpuCaptures(const CpuCaptures&) = delete;
  CpuCaptures& operator=(const CpuCaptures&) = delete;

  CapturingCpu cpu;
};

}  // namespace halfstep::testing
