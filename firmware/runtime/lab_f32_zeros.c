#include "lab_f32_zeros.h"

const float lab_f32_zeros[16] = {0.0f};
