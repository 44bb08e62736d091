#include "build_id.h"

#include "lab_build_id.h"

const char lab_build_id[BUILD_ID_BYTES + 1u] = LAB_BUILD_ID;
