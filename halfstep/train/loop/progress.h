#pragma once
#include <cstdint>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// Where a run stands. All counts are from its beginning, over every resume.
struct Progress {
  int64_t epoch = 0;          ///< finished epochs; the running one is number epoch + 1 for people
  int64_t batch = 0;          ///< finished batches of the running epoch
  int64_t step = 0;           ///< finished training steps, skipped ones included
  int64_t skipped_steps = 0;  ///< steps the loss scale skipped because a gradient overflowed
  bool val_due = false;       ///< a validation comes before the next step

  friend bool operator==(const Progress&, const Progress&) = default;
};

/// As checkpoints and logs hold it.
inline void to_json(nlohmann::json& json, const Progress& progress) {
  json = {{"epoch", progress.epoch},
          {"batch", progress.batch},
          {"step", progress.step},
          {"skipped_steps", progress.skipped_steps},
          {"val_due", progress.val_due}};
}

/// Checkpoints from before validations could be resumed have no val_due.
inline void from_json(const nlohmann::json& json, Progress& progress) {
  json.at("epoch").get_to(progress.epoch);
  json.at("batch").get_to(progress.batch);
  json.at("step").get_to(progress.step);
  json.at("skipped_steps").get_to(progress.skipped_steps);
  progress.val_due = json.value("val_due", false);
}

}  // namespace halfstep::train
