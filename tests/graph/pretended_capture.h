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

/// What was asked of pretended captures, and how they answer.
struct PretendedDevice {
  int made = 0, warm_ups = 0, captures = 0, launches = 0;
  size_t generators = 0;
  std::string busy, refuses;
};

/// Captures a run by keeping it, and launches it by running it.
class PretendedCapture final : public detail::DeviceCapture {
 public:
  explicit PretendedCapture(PretendedDevice& device) : device_(device) { ++device.made; }
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
  PretendedDevice& device_;
  std::function<void()> run_;
};

/// Graphs on the CPU think that it captures.
class CaptureTest : public ::testing::Test {
 protected:
  CaptureTest() {
    torch::manual_seed(5);
    detail::capture_maker(c10::kCPU) = [this](c10::Device) {
      return std::make_unique<PretendedCapture>(device);
    };
  }
  ~CaptureTest() override { detail::capture_maker(c10::kCPU) = nullptr; }

  /// Until the next call is launched: recorded twice, warmed up twice.
  static void warm_up(Step& step, const torch::Tensor& x) {
    for (int i = 0; i < 4; ++i) step(x);
    ASSERT_EQ(step.replayed_steps(), 2);
    ASSERT_EQ(step.captured_steps(), 0);
  }

  PretendedDevice device;
};

}  // namespace halfstep::testing
