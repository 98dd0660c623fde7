#pragma once
/// Devices, dtypes, errors and versions.

#include "halfstep/core/build_info.h"
#include "halfstep/core/device.h"
#include "halfstep/core/dtype.h"
#include "halfstep/core/error.h"
#include "halfstep/core/low_precision_support.h"
#include "halfstep/core/machine.h"
#include "halfstep/core/version.h"
