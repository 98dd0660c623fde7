#pragma once
#include "halfstep/dist/ddp_options.h"
#include "halfstep/dist/gradient_reducer.h"
#include "halfstep/dist/process_group.h"
#include "halfstep/train/config/config.h"
#include "halfstep/train/metrics/metric.h"

#include <memory>
#include <string>
#include <vector>

namespace c10d {
class Work;
}

namespace halfstep::train {

struct RunParts;

/// What a config says about the exchange of gradients, in MMEngine's words.
///
///   model_wrapper_cfg: {type: MMDistributedDataParallel, find_unused_parameters: true}
///   find_unused_parameters: true                                              the same
///   model_wrapper_cfg: {bucket_cap_mb: 50, gradient_compression: bfloat16}
///
/// Throws UsageError with file and line. Difference from MMEngine: broadcast_buffers is true unless
/// it is given.
dist::DistributedDataParallelOptions read_ddp_options(Config& config);

/// How a config says the processes are joined, in MMEngine's words.
///
///   env_cfg: {dist_cfg: {backend: nccl, timeout: 1800}}
///
/// `backend` is automatic, gloo or nccl; `timeout` in seconds that of an exchange, `join_timeout`
/// that of the beginning. What is missing stays as `options` has it. Throws UsageError with file
/// and line.
void read_dist_cfg(Config& config, dist::ProcessGroupOptions& options);

/// The other processes of a run. With one process everything here does nothing.
class Ranks {
 public:
  /// May be null: one process. The group must outlive this.
  explicit Ranks(dist::ProcessGroup* group);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int rank() const { return group_ == nullptr ? 0 : group_->rank(); }
  int count() const { return group_ == nullptr ? 1 : group_->world_size(); }
  bool is_first() const { return rank() == 0; }
  /// Null with one process.
  dist::ProcessGroup* group() const { return group_; }

  /// Throws UsageError on all ranks unless `text` is the same on all.
  void check_same(const char* where, const std::string& what, const std::string& text,
                  const std::string& advice) const;

  /// Gives all ranks the first one's weights and buffers, compares them, and from now on averages
  /// the gradients of each wrapper's parameters: what a DistributedDataParallel does around a
  /// module's forward is done around each wrapper's backward, so a model's train_step may make any
  /// steps, the same on all ranks. Throws UsageError on all ranks where models differ.
  void connect(RunParts& parts);

  /// To be called before a training step with the loader's weight of its batch: buffers become the
  /// first rank's.
  void begin_step(double weight);
  /// To be called when a wrapper has all gradients. Throws UsageError where parameters have none.
  void check_reduced(size_t wrapper);
  /// Buffers become the first rank's.
  void sync_buffers();

  /// Whether, and by which signal, all ranks stop: the largest `wish` of them (0: none, 1: a
  /// hook's, else a signal's number). All ranks call it equally often and get the same answer; but
  /// for the first call it is that of the call before, so that nobody waits.
  int agree(int wish);

  /// Adds up over all ranks; an empty function with one process.
  SumOverRanks sum() const;

 private:
  dist::ProcessGroup* group_;
  std::vector<std::unique_ptr<dist::GradientReducer>> reducers_;  // of each wrapper
  dist::NamedTensors buffers_;
  bool broadcasts_buffers_ = false;
  double weight_ = 1;
  at::Tensor wish_;
  c10::intrusive_ptr<c10d::Work> pending_;
  bool agreed_before_ = false;
};

}  // namespace halfstep::train
