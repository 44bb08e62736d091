/* lab_requantize.h for four sums at once, with Helium. Exact for all shifts. */
#ifndef LAB_ARM_REQUANTIZE_MVE_H
#define LAB_ARM_REQUANTIZE_MVE_H

#include <stdint.h>

#include <arm_mve.h>

/* The sums of four outputs, scaled and clamped. VQRDMULH is TFLite's first rounding, VRSHL its second but for the ties of
 * negative numbers. `shift` is to the right. */
static inline int32x4_t lab_mve_requantize(int32x4_t sums, int32x4_t multiplier, int32x4_t shift, int32_t zero_point,
                                           int32_t minimum, int32_t maximum)
{
    const int32x4_t high = vqrdmulhq_s32(sums, multiplier);
    /* One less for negative numbers that are shifted at all. By masks, not predicates: GCC 12 fails on those here. */
    const int32x4_t shifted = vnegq_s32(vminq_s32(shift, vdupq_n_s32(1)));
    const int32x4_t towards = vaddq_s32(high, vandq_s32(vshrq_n_s32(high, 31), shifted));
    int32x4_t scaled = vrshlq_s32(towards, vnegq_s32(shift));
    scaled = vaddq_n_s32(scaled, zero_point);
    scaled = vmaxq_s32(scaled, vdupq_n_s32(minimum));
    return vminq_s32(scaled, vdupq_n_s32(maximum));
}

#endif
