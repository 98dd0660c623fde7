#include "halfstep/train/loop/older_keys.h"

#include "halfstep/train/loop/amp_settings.h"

#include <string>

namespace halfstep::train {

namespace {

struct OlderKey {
  const char *name, *newer;
};

constexpr OlderKey older_keys[] = {
    {"optimizer", "optim_wrapper: {optimizer: {...}}"},
    {"optimizer_config",
     "optim_wrapper: {clip_grad: {max_norm: ..., norm_type: ...}, accumulative_counts: ...}"},
    {"lr_config", "param_scheduler"},
    {"momentum_config", "param_scheduler"},
    {"lr_updater", "param_scheduler"},
    {"runner",
     "train_cfg: {max_epochs: ...}, and its fp16_loss_scaler as optim_wrapper: {loss_scale: "
     "{...}}"},
    {"total_epochs", "train_cfg: {max_epochs: ...}"},
    {"data", "train_dataloader, val_dataloader and test_dataloader"},
    {"log_config", "default_hooks: {logger: {interval: ...}}"},
    {"checkpoint_config", "default_hooks: {checkpoint: {interval: ..., max_keep: ...}}"},
    {"evaluation", "train_cfg: {val_interval: ...} and val_dataloader"},
    {"seed", "randomness: {seed: ...}"},
    {"resume_from", "--resume FILE on the command line"},
};

void refuse_older_keys(Config& config) {
  for (const auto& key : config.keys())
    for (const auto& older : older_keys)
      if (key == older.name)
        config.fail(
            key, std::string("is a key of MMCV's configs and must be written as ") + older.newer);
}

void apply_fp16(Config& config) {
  auto fp16 = config.child_if("fp16");
  if (!fp16) return;
  const std::string place = "fp16 (" + config.where("fp16") + ")";
  auto wrapper = config.child("optim_wrapper");
  if (wrapper.is_text("constructor") && !wrapper_names(wrapper).empty())
    config.fail("fp16", "must be left out with several optimizers (" +
                            wrapper.where("constructor") +
                            " has a constructor), each of which has a loss_scale of its own");
  const auto type = wrapper.get<std::string>("type", "OptimWrapper");
  if (type != "OptimWrapper" && type != "AmpOptimWrapper")
    wrapper.fail("type", "must be OptimWrapper or AmpOptimWrapper beside " + place);
  if (wrapper.has("dtype") &&
      !(wrapper.is_text("dtype") && wrapper.get<std::string>("dtype") == "float16"))
    wrapper.fail("dtype", "must be float16, or left out, beside " + place);
  if (wrapper.has("loss_scale"))
    wrapper.fail("loss_scale", "must be left out beside " + place + ", which has one");

  if (type == "OptimWrapper") wrapper.set("type", "AmpOptimWrapper", place);
  if (!wrapper.has("dtype")) wrapper.set("dtype", "float16", place);
  if (!fp16->has("loss_scale")) {
    wrapper.set("loss_scale", "512.0", place);
  } else {
    if (fp16->is_text("loss_scale") && fp16->get<std::string>("loss_scale") != "dynamic")
      fp16->fail("loss_scale", "must be dynamic, a number or a mapping");
    wrapper.adopt("loss_scale", *fp16, "loss_scale");
  }
  fp16->finish();
  config.remove("fp16");
}

}  // namespace

void apply_older_keys(Config& config) {
  refuse_older_keys(config);
  apply_fp16(config);
}

}  // namespace halfstep::train
