#include "halfstep/train/loop/auto_scale_lr.h"

#include <c10/util/StringUtil.h>

namespace halfstep::train {

void multiply_rates(std::vector<WrapperParts>& wrappers, double ratio) {
  for (auto& parts : wrappers) {
    for (auto& group : parts.wrapper->param_groups())
      group.options().set_lr(group.options().get_lr() * ratio);
    if (auto* settings = parts.wrapper->base_settings())
      settings->set_lr(settings->get_lr() * ratio);
  }
}

bool scale_rates(Config& config, bool enable, int64_t batch_size,
                 std::vector<WrapperParts>& wrappers) {
  constexpr const char* key = "auto_scale_lr";
  auto mapping = enable ? std::optional(config.child(key)) : config.child_if(key);
  if (!mapping) return false;
  if (enable) mapping->set("enable", "true", "--auto-scale-lr");
  constexpr const char* base_key = "base_batch_size";
  const bool enabled = mapping->get<bool>("enable", false);
  if (!enabled && !mapping->has(base_key)) return false;
  const auto base = mapping->get<int64_t>(base_key);
  if (base < 1) mapping->fail(base_key, "must be at least 1 example");
  if (!enabled || base == batch_size) return enabled;
  const double ratio = static_cast<double>(batch_size) / static_cast<double>(base);
  multiply_rates(wrappers, ratio);
  wrappers.front().notes.push_back(c10::str("auto_scale_lr: learning rates are those for ", base,
                                            " examples a step times ", ratio, ", as a step has ",
                                            batch_size));
  return true;
}

}  // namespace halfstep::train
