#include "lab_f32_axpy.h"

#include "lab_f32_arithmetic.h"

#if LAB_F32_THUMB_FPU

#include "arm/lab_f32_axpy_arm.h"

void lab_f32_axpy(const float *x, float *y, int32_t count, float scale)
{
    axpy(x, y, count, scale);
}

#else

void lab_f32_axpy(const float *x, float *y, int32_t count, float scale)
{
    for (int32_t i = 0; i < count; i++) {
        y[i] = LAB_MULTIPLY_ADD(scale, x[i], y[i]);
    }
}

#endif
