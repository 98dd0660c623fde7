// A Graph's state in a file.
#include "halfstep/graph/graph_base.h"

#include <torch/serialize/input-archive.h>
#include <torch/serialize/output-archive.h>

namespace halfstep {

void GraphBase::save(torch::serialize::OutputArchive& archive) const {
  torch::nn::Module::save(archive);
  for (size_t i = 0; i < optimizers_.size(); ++i) {
    const auto& [optimizer, scheduler] = optimizers_[i];
    torch::serialize::OutputArchive state(archive.compilation_unit());
    optimizer->save(state);
    archive.write("optimizer" + std::to_string(i), state);
    if (scheduler == nullptr) continue;
    torch::serialize::OutputArchive schedule(archive.compilation_unit());
    scheduler->save(schedule);
    archive.write("scheduler" + std::to_string(i), schedule);
  }
  if (scaler_ == nullptr) return;
  torch::serialize::OutputArchive scale(archive.compilation_unit());
  scaler_->save(scale);
  archive.write("grad_scaler", scale);
}

void GraphBase::load(torch::serialize::InputArchive& archive) {
  torch::nn::Module::load(archive);
  for (size_t i = 0; i < optimizers_.size(); ++i) {
    const auto& [optimizer, scheduler] = optimizers_[i];
    torch::serialize::InputArchive state;
    archive.read("optimizer" + std::to_string(i), state);
    optimizer->load(state);
    if (scheduler == nullptr) continue;
    torch::serialize::InputArchive schedule;
    archive.read("scheduler" + std::to_string(i), schedule);
    scheduler->load(schedule);
  }
  if (scaler_ == nullptr) return;
  torch::serialize::InputArchive scale;
  archive.read("grad_scaler", scale);
  scaler_->load(scale);
}

}  // namespace halfstep
