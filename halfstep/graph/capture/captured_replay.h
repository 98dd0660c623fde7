#pragma once
#include "halfstep/graph/capture/device_capture.h"
#include "halfstep/graph/replay.h"

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
/// run begins, that one goes op by op, and copies are given out from then on.
class CapturedReplay {
 public:
  /// For the device of the program's tensors; null where nothing captures on such devices. `replay`
  /// must outlive it.
  static std::unique_ptr<CapturedReplay> make(Replay& replay);

  /// As Replay::run.
  StepResults run(at::TensorList inputs);

  /// Why the last run was no launch, as a clause; empty where it was one.
  const std::string& why_not() const { return why_not_; }

  /// So many runs warm up before the first capture. Each time that memory which the capture counts
  /// on was exchanged for other, twice as many go before the next.
  static constexpr int kWarmUps = 2;

 private:
  CapturedReplay(Replay& replay, c10::Device device, std::unique_ptr<DeviceCapture> capture);

  StepResults run_by_op(at::TensorList inputs, std::string why);
  void capture(at::TensorList inputs);
  StepResults launch(at::TensorList inputs);
  bool gradients_are_held() const;
  std::string moved_tensor() const;

  Replay& replay_;
  std::string refused_;  // for good
  std::string why_not_;
  int warm_ups_ = kWarmUps, next_warm_ups_ = 2 * kWarmUps;
  bool captured_ = false;
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
