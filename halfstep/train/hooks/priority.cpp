#include "halfstep/train/hooks/priority.h"

#include <algorithm>
#include <cctype>
#include <utility>

namespace halfstep::train {

std::optional<int64_t> read_priority(Config& hook) {
  constexpr const char* key = "priority";
  constexpr const char* rule =
      "must be HIGHEST, VERY_HIGH, HIGH, ABOVE_NORMAL, NORMAL, BELOW_NORMAL, LOW, VERY_LOW, LOWEST "
      "or a number from 0 to 100";
  if (!hook.has(key)) return std::nullopt;
  if (!hook.is_text(key)) {
    const auto number = hook.get<int64_t>(key);
    if (number < priority::highest || number > priority::lowest) hook.fail(key, rule);
    return number;
  }
  static constexpr std::pair<const char*, int64_t> names[] = {
      {"HIGHEST", priority::highest}, {"VERY_HIGH", priority::very_high},
      {"HIGH", priority::high},       {"ABOVE_NORMAL", priority::above_normal},
      {"NORMAL", priority::normal},   {"BELOW_NORMAL", priority::below_normal},
      {"LOW", priority::low},         {"VERY_LOW", priority::very_low},
      {"LOWEST", priority::lowest},
  };
  auto name = hook.get<std::string>(key);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char letter) { return std::toupper(letter); });
  for (const auto& [known, value] : names)
    if (name == known) return value;
  hook.fail(key, rule);
}

}  // namespace halfstep::train
