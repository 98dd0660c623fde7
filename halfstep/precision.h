#pragma once
/// Precision in the words of Keras, jmp and Lightning Fabric.

#include "halfstep/precision/dtype_policy.h"
#include "halfstep/precision/dtype_policy_map.h"
#include "halfstep/precision/policy_layer.h"
#include "halfstep/precision/policy_names.h"
#include "halfstep/precision/tree.h"
