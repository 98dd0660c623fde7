#pragma once
/// The whole library. Narrower headers compile faster: halfstep/autocast.h, halfstep/scaling.h, …

#include "halfstep/core.h"
#include "halfstep/scaling.h"
