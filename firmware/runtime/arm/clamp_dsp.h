/* Requantisation with the DSP extension: what it can do, and the clamp of int8 values four at a time. */
#ifndef LAB_ARM_CLAMP_DSP_H
#define LAB_ARM_CLAMP_DSP_H

#include <stdint.h>
#include <string.h>

#include <arm_acle.h>

#include "../lab_requantize.h"

/* Shifts for which a single rounding with a correction for negative sums is exact: without a shift there is no second
 * rounding to correct, and beyond 22 the zero point leaves int32. */
#define LAB_DSP_LEAST_SHIFT 1
#define LAB_DSP_MOST_SHIFT 22

/* For values that a kernel saturated to the whole of int8; nothing to do where the bounds are that. */
static inline void lab_dsp_clamp(int8_t *bytes, int32_t count, int32_t minimum, int32_t maximum)
{
    const int8x4_t low = (int8x4_t)((uint32_t)(uint8_t)minimum * 0x01010101u);
    const int8x4_t high = (int8x4_t)((uint32_t)(uint8_t)maximum * 0x01010101u);
    int32_t i = 0;
    if (minimum <= INT8_MIN && maximum >= INT8_MAX) {
        return;
    }
    for (; i + 3 < count; i += 4) {
        int8x4_t word;
        memcpy(&word, bytes + i, sizeof word);
        (void)__ssub8(word, low);
        word = (int8x4_t)__sel((uint8x4_t)word, (uint8x4_t)low);
        (void)__ssub8(word, high);
        word = (int8x4_t)__sel((uint8x4_t)high, (uint8x4_t)word);
        memcpy(bytes + i, &word, sizeof word);
    }
    for (; i < count; i++) {
        bytes[i] = lab_clamp_int8(bytes[i], minimum, maximum);
    }
}

#endif
