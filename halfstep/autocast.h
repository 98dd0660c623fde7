#pragma once
#include "halfstep/autocast/autocast.h"
#include "halfstep/autocast/propagate.h"
