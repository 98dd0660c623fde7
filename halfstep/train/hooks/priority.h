#pragma once
#include "halfstep/train/config/config.h"

#include <cstdint>
#include <optional>

namespace halfstep::train {

/// MMEngine's places among hooks: at each point the hook of the smallest number runs first, hooks
/// of one number in the order in which they were registered.
namespace priority {
/// HIGHEST … LOWEST in a config.
inline constexpr int64_t highest = 0;
inline constexpr int64_t very_high = 10;
inline constexpr int64_t high = 30;
inline constexpr int64_t above_normal = 40;
inline constexpr int64_t normal = 50;
inline constexpr int64_t below_normal = 60;
inline constexpr int64_t low = 70;
inline constexpr int64_t very_low = 90;
inline constexpr int64_t lowest = 100;
}  // namespace priority

/// The key `priority` of a hook's mapping: a name (HIGHEST … LOWEST, in any case) or a whole number
/// from 0 to 100; nothing where it is missing. Throws UsageError with file and line for any other.
std::optional<int64_t> read_priority(Config& hook);

}  // namespace halfstep::train
