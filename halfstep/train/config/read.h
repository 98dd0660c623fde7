#pragma once
#include "halfstep/train/config/config.h"
#include "halfstep/train/config/node.h"

#include <memory>

namespace halfstep::train::detail {

/// The value of a node that is not null. Throws UsageError that names `place` (of an element: its
/// own place) where it is of another type.
template <ConfigValue T>
T read(const ConfigNode& node, const Place& place);

/// A node that reads back as the value.
template <ConfigValue T>
std::shared_ptr<ConfigNode> make_node(const T& value);

}  // namespace halfstep::train::detail
