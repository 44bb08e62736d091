/* Multiply-add of the fp32 kernels. */
#ifndef LAB_F32_ARITHMETIC_H
#define LAB_F32_ARITHMETIC_H

/* a * b + c, with one rounding where the core has an instruction for that. */
#ifdef __ARM_FEATURE_FMA
#define LAB_MULTIPLY_ADD(a, b, c) __builtin_fmaf((a), (b), (c))
#else
#define LAB_MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* Cores for the assembly in arm/lab_f32_*.h: Cortex-M4F, M7, M33, M55. */
#if defined(__thumb2__) && defined(__ARM_FEATURE_FMA) && defined(__ARM_FP) && !defined(__SOFTFP__)
#define LAB_F32_THUMB_FPU 1
#else
#define LAB_F32_THUMB_FPU 0
#endif

static inline float lab_f32_clamp(float value, float minimum, float maximum)
{
    if (value < minimum) {
        value = minimum;
    }
    if (value > maximum) {
        value = maximum;
    }
    return value;
}

#endif
