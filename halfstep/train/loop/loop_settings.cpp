#include "halfstep/train/loop/loop_settings.h"

#include <nlohmann/json.hpp>

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

// Lists of lists are in no other key.
std::vector<std::pair<int64_t, int64_t>> read_intervals(Config& train_cfg) {
  constexpr const char* key = "dynamic_intervals";
  std::vector<std::pair<int64_t, int64_t>> result;
  if (!train_cfg.has(key)) return result;
  train_cfg.ignore(key);
  const auto pairs = train_cfg.to_json().at(key);
  const auto is_count = [](const nlohmann::json& value) {
    return value.is_number_integer() && value.get<int64_t>() >= 1;
  };
  const auto fail = [&] {
    train_cfg.fail(key,
                   "must be a list of [from, interval] with numbers of at least 1, the first of "
                   "which rise, as [[20, 1], [30, 5]]");
  };
  if (!pairs.is_array()) fail();
  for (const auto& pair : pairs) {
    if (!pair.is_array() || pair.size() != 2 || !is_count(pair[0]) || !is_count(pair[1])) fail();
    const auto from = pair[0].get<int64_t>();
    if (!result.empty() && from <= result.back().first) fail();
    result.emplace_back(from, pair[1].get<int64_t>());
  }
  return result;
}

}  // namespace

LoopSettings LoopSettings::read(Config& train_cfg) {
  LoopSettings settings;
  settings.by_epoch = read_by_epoch(train_cfg);
  if (settings.by_epoch) {
    settings.length = train_cfg.get_count("max_epochs", 1);
  } else {
    settings.length = train_cfg.get<int64_t>("max_iters");
    if (settings.length < 1) train_cfg.fail("max_iters", "must be at least 1");
  }
  settings.val_begin = train_cfg.get_count("val_begin", 1);
  settings.val_interval = train_cfg.get_count("val_interval", settings.by_epoch ? 1 : 1000);
  settings.dynamic_intervals = read_intervals(train_cfg);
  return settings;
}

bool LoopSettings::validates_after(int64_t done) const {
  auto interval = val_interval;
  // As MMEngine: the one that holds for the epoch, or iteration, to come.
  for (const auto& [from, then] : dynamic_intervals)
    if (done + 1 >= from) interval = then;
  return done >= val_begin && (done % interval == 0 || done == length);
}

}  // namespace halfstep::train
