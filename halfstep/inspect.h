#pragma once
/// What ran in which dtype.

#include "halfstep/inspect/dtype_counter.h"
#include "halfstep/inspect/dtype_report.h"
#include "halfstep/inspect/precision_recorder.h"
#include "halfstep/inspect/precision_report.h"
