#pragma once
#include "halfstep/inspect/dtype_counter.h"
#include "halfstep/inspect/dtype_report.h"
