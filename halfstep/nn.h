#pragma once
/// Modules that run well under autocast.

#include "halfstep/nn/linear.h"
