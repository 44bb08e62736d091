/* int8 values as real values without their scale: (float)(value - zero_point). */
#ifndef LAB_Q_WIDEN_H
#define LAB_Q_WIDEN_H

#include <stdint.h>

#include "lab_f32_arithmetic.h"

static inline void lab_q_widen(const int8_t *values, int32_t count, int32_t zero_point, float *wide)
{
    for (int32_t i = 0; i < count; i++) {
        wide[i] = (float)(values[i] - zero_point);
    }
}

#if LAB_F32_THUMB_FPU && defined(__ARM_FEATURE_DSP)

#include "arm/lab_q_widen_arm.h"

#else

typedef int32_t lab_q_zeros_t;

/* A zero point as lab_q_widen_four takes it. */
static inline lab_q_zeros_t lab_q_zeros(int32_t zero_point)
{
    return zero_point;
}

static inline void lab_q_widen_four(const int8_t *values, lab_q_zeros_t zeros, float *wide)
{
    lab_q_widen(values, 4, zeros, wide);
}

#endif

#endif
