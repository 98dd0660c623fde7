#pragma once
#include "halfstep/train/config/config.h"

#include <filesystem>

#include <nlohmann/json.hpp>

namespace halfstep::train {

/// The settings of a config, defaults filled in, that a resumed run must share with the run it goes
/// on with: all but train_cfg, the keys of validation and test, default_hooks, custom_hooks,
/// log_processor, load_from, what the exchange of gradients is told and
/// train_dataloader.dataset.root (folders move).
nlohmann::json binding_settings(const Config& config);

/// Throws UsageError that names the keys, with both values, in which `now` differs from what the
/// checkpoint `source` was written with.
void check_same_settings(const nlohmann::json& then, const nlohmann::json& now,
                         const std::filesystem::path& source);

}  // namespace halfstep::train
