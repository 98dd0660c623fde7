#include "halfstep/train/loop/settings.h"

#include "halfstep/core/error.h"
#include "halfstep/train/files/module_state.h"

#include <algorithm>
#include <string>
#include <vector>

namespace halfstep::train {

namespace {

using nlohmann::json;

// What a flat mapping holds under a key, as a text.
std::string value_text(const json& flat, const std::string& key) {
  return flat.contains(key) ? flat[key].dump() : "nothing";
}

// "/optim_wrapper/optimizer/lr" as --cfg-options takes it.
std::string dotted(std::string pointer) {
  std::replace(pointer.begin(), pointer.end(), '/', '.');
  return pointer.substr(1);
}

std::string amp_remedy(const json& then, const json& now) {
  const json::json_pointer type("/optim_wrapper/type");
  if (then.value(type, json()) == now.value(type, json())) return "";
  if (then.value(type, json()) == "AmpOptimWrapper") return "add --amp, or ";
  return "leave --amp out, or ";
}

}  // namespace

json binding_settings(const Config& config) {
  json settings = config.to_json();
  for (const char* key :
       {"train_cfg", "val_cfg", "val_dataloader", "val_evaluator", "test_cfg", "test_dataloader",
        "test_evaluator", "default_hooks", "custom_hooks", "log_processor", "load_from", "env_cfg",
        "model_wrapper_cfg", "find_unused_parameters"})
    settings.erase(key);
  settings["train_dataloader"]["dataset"].erase("root");
  return settings;
}

void check_same_settings(const json& then, const json& now, const std::filesystem::path& source) {
  const json old_values = then.flatten();
  const json new_values = now.flatten();
  json keys = old_values;
  keys.update(new_values);
  // A class first: where it differs, its own keys do, too.
  std::vector<std::string> types;
  std::vector<std::string> differences;
  for (const auto& [key, unused] : keys.items()) {
    if (old_values.contains(key) && new_values.contains(key) && old_values[key] == new_values[key])
      continue;
    auto& list = key.ends_with("/type") ? types : differences;
    list.push_back(dotted(key) + " = " + value_text(new_values, key) + " (it was " +
                   value_text(old_values, key) + ")");
  }
  differences.insert(differences.begin(), types.begin(), types.end());
  HALFSTEP_CHECK_USAGE(differences.empty(), "resume",
                       "a run goes on with the settings it began with, which '", source.string(),
                       "' holds, but got ", detail::first_few(differences), "; ",
                       amp_remedy(then, now),
                       "take the config.yaml that the run saved, or start anew without --resume "
                       "(docs/config.md lists what may change)");
}

}  // namespace halfstep::train
