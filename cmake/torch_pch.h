// The precompiled header of tests and examples. Sources still include what they use.
#include <torch/torch.h>

#include "pch.h"
