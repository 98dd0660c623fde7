#include "halfstep/train/loop/rank_state.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/rng_state.h"
#include "halfstep/train/loop/trainer.h"

#include <algorithm>
#include <iostream>
#include <utility>

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/utils.h>

namespace halfstep::train {

namespace {

constexpr const char* kGradient = "gradient.";

std::string rng_name(int rank, const char* which) {
  return c10::str("rank_", rank, ".rng.", which);
}

at::Tensor to_tensor(const std::string& bytes) {
  auto tensor = at::zeros({static_cast<int64_t>(bytes.size())}, at::kByte);
  std::copy(bytes.begin(), bytes.end(), tensor.mutable_data_ptr<uint8_t>());
  return tensor;
}

std::string to_bytes(const at::Tensor& tensor) {
  const auto* data = tensor.const_data_ptr<uint8_t>();
  return {data, data + tensor.numel()};
}

void gather_generators(const Trainer& trainer, Checkpoint& checkpoint) {
  auto& group = *trainer.ranks().group();
  const auto gather = [&](const char* which, c10::Device device) {
    const auto all = group.all_gather(to_bytes(generator_state(device)));
    for (int rank = 1; rank < group.world_size(); ++rank)
      checkpoint.tensors[rng_name(rank, which)] = to_tensor(all[static_cast<size_t>(rank)]);
  };
  gather("cpu", c10::kCPU);
  if (!trainer.device().is_cpu()) gather("cuda", trainer.device());
}

// Each rank has added up its own; their mean gives the same average once the rest is added.
void average_gradients(const Trainer& trainer, const WrapperParts& parts, Checkpoint& checkpoint) {
  auto& group = *trainer.ranks().group();
  std::vector<at::Tensor> parameters;
  for (const auto& options : std::as_const(*parts.wrapper).param_groups())
    parameters.insert(parameters.end(), options.params().begin(), options.params().end());
  auto has_any = at::zeros({static_cast<int64_t>(parameters.size())}, at::kInt);
  for (size_t i = 0; i < parameters.size(); ++i)
    has_any[static_cast<int64_t>(i)] = parameters[i].grad().defined() ? 1 : 0;
  group.all_reduce_(has_any, dist::Reduce::max);
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (has_any[static_cast<int64_t>(i)].item<int>() == 0) continue;
    const auto& own = parameters[i].grad();
    auto mean = own.defined() ? own.detach().clone() : at::zeros_like(parameters[i]).detach();
    group.all_reduce_(mean, dist::Reduce::mean);
    checkpoint.tensors[kGradient + parts.parameter_names[i]] = mean;
  }
}

std::string describe(const RankLayout& layout) {
  return layout.ranks == 1
             ? c10::str("1 process with batches of ", layout.batch_size)
             : c10::str(layout.ranks, " processes with batches of ", layout.batch_size);
}

}  // namespace

void collect_rank_state(const Trainer& trainer, Checkpoint& checkpoint) {
  const auto layout = layout_of(trainer);
  // What a run of one process saves has no word of ranks, as before there were several.
  if (layout.ranks > 1) checkpoint.state["ranks"] = layout.ranks;
  if (layout.changed) checkpoint.state["ranks_changed"] = true;
  if (layout.ranks == 1) return;
  gather_generators(trainer, checkpoint);
  for (const auto& parts : trainer.parts().wrappers)
    if (parts.wrapper->is_accumulating()) average_gradients(trainer, parts, checkpoint);
}

RankLayout layout_of(const nlohmann::json& state, bool drop_last) {
  RankLayout layout;
  layout.ranks = state.value("ranks", 1);
  state.at("settings").at("train_dataloader").at("batch_size").get_to(layout.batch_size);
  layout.changed = state.value("ranks_changed", false);
  const auto examples = state.at("data").at("examples").get<int64_t>();
  const auto step = layout.examples_in_a_step();
  HALFSTEP_CHECK_ENVIRONMENT(step > 0, "resume",
                             "a checkpoint must say how batches were made, but "
                             "has ",
                             step, " examples in one; take another checkpoint");
  layout.batches = examples / step + (examples % step != 0 && !drop_last ? 1 : 0);
  return layout;
}

RankLayout layout_of(const Trainer& trainer) {
  const auto& loader = *trainer.parts().train_loader;
  return {loader.options().ranks, loader.options().batch_size, loader.num_batches(),
          trainer.ranks_changed()};
}

Progress translate(const Progress& progress, const RankLayout& then, const RankLayout& now,
                   const std::filesystem::path& source) {
  if (then.ranks == now.ranks) return progress;
  std::cerr << "warning: '" << source.string() << "' was written by " << describe(then)
            << ", this run has " << describe(now)
            << ": it goes on, but not with the same bits as an unbroken run\n";
  if (now.ranks > 1)
    std::cerr << "warning: the random generators of the processes but the first start anew\n";
  auto result = progress;
  const auto before = then.examples_in_a_step();
  const auto after = now.examples_in_a_step();
  if (before == after) return result;
  std::cerr << "warning: a step takes " << after << " examples, where it took " << before
            << ": an epoch has " << now.batches << " steps instead of " << then.batches
            << ", and what counts steps goes on from step " << progress.step << "\n";
  if (progress.batch == then.batches) {
    result.batch = now.batches;
    return result;
  }
  const auto seen = progress.batch * before;
  result.batch = seen / after;
  if (seen % after != 0)
    std::cerr << "warning: " << seen % after << " examples of epoch " << progress.epoch + 1
              << " are seen a second time, as its batches begin elsewhere\n";
  return result;
}

void restore_rank_state(Trainer& trainer, const Checkpoint& checkpoint) {
  const auto& ranks = trainer.ranks();
  if (ranks.is_first()) return;
  if (checkpoint.state.value("ranks", 1) != ranks.count()) {
    // Not those of the beginning, which have been drawn from.
    constexpr uint64_t apart = 1'000'003;
    torch::manual_seed(trainer.parts().seed + static_cast<uint64_t>(ranks.rank()) +
                       apart * static_cast<uint64_t>(trainer.progress().step));
    return;
  }
  const auto set = [&](const char* which, c10::Device device) {
    const auto saved = checkpoint.tensors.find(rng_name(ranks.rank(), which));
    if (saved != checkpoint.tensors.end()) set_generator_state(device, saved->second);
  };
  set("cpu", c10::kCPU);
  if (!trainer.device().is_cpu()) set("cuda", trainer.device());
}

}  // namespace halfstep::train
