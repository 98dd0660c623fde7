// The precompiled header of halfstep's own builds. Sources still include what they use: a build
// without it must work. Not torch/torch.h: gcc instantiates what a precompiled header left pending
// in every file anew, 4 s each.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>
