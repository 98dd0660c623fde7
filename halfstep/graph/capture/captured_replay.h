#pragma once
#include "halfstep/graph/capture/device_capture.h"
#include "halfstep/graph/capture/step_capture.h"
#include "halfstep/graph/replay.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace halfstep::detail {

/// Runs a Replay as one launch of what the device has captured: op by op for the first runs, which
/// warm up, then captured and launched. Where that can't be, op by op as ever, and why_not() says
/// why. Not for use by two threads at once.
///
/// Inputs are copied into tensors of the capture's, outputs are copies. Gradients lie in the
/// capture's memory and are written anew by each run: where somebody still holds some when the next
/// run begins, that one goes op by op, and copies are given out from then on. With a step that can
/// be captured none are given out: the launch uses them up.
class CapturedReplay {
 public:
  using MakeStep = std::function<std::unique_ptr<StepCapture>(c10::Device)>;

  /// For the device of the program's tensors; null where nothing captures on such devices. `replay`
  /// must outlive it. `make_step` may give null: nobody steps.
  static std::unique_ptr<CapturedReplay> make(Replay& replay, const MakeStep& make_step);

  /// As Replay::run. `why_no_step`, a clause, is not empty where the step must not be part of this
  /// run.
  StepResults run(at::TensorList inputs, const std::string& why_no_step);

  /// Why the last run was no launch, as a clause; empty where it was one.
  const std::string& why_not() const { return why_not_; }

  /// The step that the last run was a launch of, too, to be noted; null where it has yet to be
  /// made.
  const StepCapture* launched_step() const { return launched_step_; }
  /// Why captures are without the step, as a clause; empty where they are not.
  const std::string& why_no_step() const { return why_no_step_; }

  /// So many runs warm up before the first capture. Each time that memory which the capture counts
  /// on was exchanged for other, twice as many go before the next.
  static constexpr int kWarmUps = 2;
  /// So often the step may keep what could be captured or launched from it, with fewer than
  /// kManyLaunches in between; then it is left out.
  static constexpr int kMostHindrances = 3, kManyLaunches = 100;

 private:
  CapturedReplay(Replay& replay, c10::Device device, std::unique_ptr<DeviceCapture> capture,
                 std::unique_ptr<StepCapture> step);

  StepResults run_by_op(at::TensorList inputs, std::string why);
  std::string why_outdated(const std::string& why_no_step);
  std::string why_put_off(const std::string& why_no_step);
  std::string hindrance(const std::string& why_no_step);
  void drop();
  std::string capture(at::TensorList inputs);
  void capture_all(at::TensorList inputs);
  StepResults launch(at::TensorList inputs);
  bool gradients_are_held() const;
  std::string moved_tensor() const;

  Replay& replay_;
  std::unique_ptr<StepCapture> step_;
  std::string refused_, why_no_step_;  // for good
  std::string why_not_;
  const StepCapture* launched_step_ = nullptr;
  int warm_ups_ = kWarmUps, next_warm_ups_ = 2 * kWarmUps;
  int hindrances_ = 0, launches_ = 0;  // launches since the last hindrance
  bool captured_ = false;
  bool has_step_ = false;  // what is captured
  bool copies_gradients_ = false;
  std::vector<at::Tensor> inputs_;
  StepResults results_;       // of the capture
  std::vector<size_t> uses_;  // of the memory of each gradient, by ourselves
  std::vector<std::pair<at::Tensor, const void*>> places_;  // of what the program reads besides
  std::vector<std::string> place_names_;
  // Last, so that it goes first: launches may still read the inputs.
  std::unique_ptr<DeviceCapture> capture_;
};

}  // namespace halfstep::detail
