#pragma once
#include "halfstep/train/config/config.h"

#include <cstdint>
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include <nlohmann/json.hpp>

namespace halfstep::train {

class Trainer;

/// Makes the lines of the log from the message hub, in MMEngine's form:
///
///   Epoch(train) [1][200/938]  lr: 1.0000e-03  eta: 0:00:03  time: 0.0021  data_time: 0.0003
///   loss: 0.4512  … Iter(train) [ 200/5000]  lr: 1.0000e-03  … Epoch(val) [1][157/157] accuracy:
///   0.8410  loss: 0.4474  data_time: 0.0003  time: 0.0010
///
/// Losses, times and grad_norm are means over the last `window_size` values, other numbers the
/// newest. Beside what MMEngine has: loss_scale, where there is one, and skipped steps. Reads the
/// loss, so a line waits for the device.
class LogProcessor {
 public:
  LogProcessor() = default;
  /// Keys: window_size (10), num_digits (4), by_epoch (whether the run is by epochs), custom_cfg: a
  /// list of mappings, each of which shows `data_src` as `method_name` (mean, min, max: of the last
  /// `window_size` values; current) under `log_name`, or in the place of what is shown under its
  /// own name. Throws UsageError with file and line.
  LogProcessor(Config& config, bool run_by_epoch);

  /// A line, and the same numbers by name, as scalars.json takes them.
  struct Line {
    std::string text;
    nlohmann::ordered_json scalars;
  };

  /// After a training step.
  Line after_train_iter(const Trainer& trainer) const;
  /// After batch `number` (from 0) of a validation.
  Line after_val_iter(const Trainer& trainer, int64_t number) const;
  /// After a validation.
  Line after_val_epoch(const Trainer& trainer) const;

  int64_t window_size() const { return window_size_; }

 private:
  nlohmann::ordered_json collect(const Trainer& trainer, const std::string& prefix,
                                 int64_t time_window) const;
  std::string field(const std::string& name, double value) const;
  std::string times(const Trainer& trainer, nlohmann::ordered_json& left) const;
  std::string train_header(const Trainer& trainer) const;
  std::string val_header(const Trainer& trainer, int64_t done, bool align) const;

  struct Custom {
    std::string source;
    std::string method;
    std::string name;
    int64_t window = 1;
  };
  static Custom read_custom(Config& config);
  double value_of(const Trainer& trainer, const std::string& prefix, const Custom& custom) const;

  int64_t window_size_ = 10;
  std::vector<Custom> custom_;
  int num_digits_ = 4;
  bool by_epoch_ = true;
};

/// The most memory that a device other than the CPU had in use so far, in whole MiB: the line's
/// `memory`. Difference from MMEngine, which forgets the peak with each line: other parts of the
/// program may want it.
int64_t peak_mebibytes(c10::Device device);

/// Seconds as Python's timedelta shows them: "0:00:09", "2 days, 3:04:05".
std::string duration_text(double seconds);

}  // namespace halfstep::train
