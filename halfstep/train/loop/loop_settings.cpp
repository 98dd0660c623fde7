#include "halfstep/train/loop/loop_settings.h"

namespace halfstep::train {

namespace {

bool read_by_epoch(Config& train_cfg) {
  if (!train_cfg.has("type")) return train_cfg.get<bool>("by_epoch", true);
  if (train_cfg.has("by_epoch"))
    train_cfg.fail("by_epoch", "must be left out beside type, which says the same");
  const auto type = train_cfg.get<std::string>("type");
  if (type != "EpochBasedTrainLoop" && type != "IterBasedTrainLoop")
    train_cfg.fail("type", "must be EpochBasedTrainLoop or IterBasedTrainLoop");
  return type == "EpochBasedTrainLoop";
}

int64_t read_count(Config& train_cfg, const char* key, int64_t fallback) {
  const auto count = train_cfg.get<int64_t>(key, fallback);
  if (count < 1) train_cfg.fail(key, "must be at least 1");
  return count;
}

}  // namespace

LoopSettings LoopSettings::read(Config& train_cfg) {
  LoopSettings settings;
  settings.by_epoch = read_by_epoch(train_cfg);
  if (settings.by_epoch) {
    settings.length = read_count(train_cfg, "max_epochs", 1);
  } else {
    settings.length = train_cfg.get<int64_t>("max_iters");
    if (settings.length < 1) train_cfg.fail("max_iters", "must be at least 1");
  }
  settings.val_begin = read_count(train_cfg, "val_begin", 1);
  settings.val_interval = read_count(train_cfg, "val_interval", settings.by_epoch ? 1 : 1000);
  return settings;
}

bool LoopSettings::validates_after(int64_t done) const {
  return done >= val_begin && (done % val_interval == 0 || done == length);
}

}  // namespace halfstep::train
