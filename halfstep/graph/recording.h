#pragma once
#include "halfstep/graph/capture/captured_replay.h"
#include "halfstep/graph/plan/precision_plan.h"
#include "halfstep/graph/program.h"
#include "halfstep/graph/replay.h"
#include "halfstep/graph/watched_state.h"

#include <any>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace halfstep::detail {

/// What calls must have in common to be replays of one recording.
struct RecordingKey {
  std::vector<size_t> structure;
  std::vector<Geometry> inputs;  // offsets are 0 unless the program counts on them
  bool gradients = true;         // GradMode
  bool rehearsal = false;        // HalfRehearsal
  c10::ScalarType default_dtype = c10::kFloat;

  static RecordingKey of(const std::vector<at::Tensor>& inputs, std::vector<size_t> structure);
  /// In how much another one differs.
  size_t distance(const RecordingKey& other) const;
  /// The first thing in which another one differs, as a clause.
  std::string difference_from(const RecordingKey& other) const;
  bool operator==(const RecordingKey&) const = default;
};

/// A step's recordings for one key. Two in a row must be equal before one is replayed; a third is
/// made where they are not, because much is set up in a first step and never again.
struct Recording {
  RecordingKey key;
  std::shared_ptr<const PrecisionPlan> plan = nullptr;  // null: none is asked for, or none yet
  std::optional<Program> first = {};
  int recorded = 0;
  std::unique_ptr<Replay> replay = nullptr;
  std::unique_ptr<CapturedReplay> captured = nullptr;  // null: nothing captures on such a device
  std::optional<WatchedState> watched = {};
  std::any shape = {};                      // of the outputs
  std::vector<at::Tensor> parameters = {};  // that get gradients
  std::vector<int64_t> input_offsets = {};

  static constexpr int kMostRecorded = 3;
};

}  // namespace halfstep::detail
