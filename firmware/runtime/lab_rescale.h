/* Any requantisation of TFLite's: multipliers above one too, and sums up to 2^31.
 *
 * As in lab_requantize.h, but `shift` is positive to the right and negative to the left, and nothing overflows: where
 * value * 2^left exceeds int32 it saturates. Slower than lab_requantize; used where that one's bounds do not hold. */
#ifndef LAB_RESCALE_H
#define LAB_RESCALE_H

#include "lab_requantize.h"

static inline int32_t lab_rescale_value(int32_t value, int32_t multiplier, int32_t shift)
{
    int64_t raised = value;
    if (shift < 0) {
        raised *= INT64_C(1) << -shift;
        raised = raised > INT32_MAX ? INT32_MAX : raised;
        raised = raised < INT32_MIN ? INT32_MIN : raised;
        shift = 0;
    }
    const int64_t high = (raised * multiplier + (INT64_C(1) << 30)) >> 31;
    if (shift == 0) {
        return (int32_t)high;
    }
    return (int32_t)((high + (INT64_C(1) << (shift - 1)) - (high < 0)) >> shift);
}

/* Clamp of a rescaled value plus a zero point, without overflow. */
static inline int8_t lab_rescale_int8(int32_t value, int32_t zero_point, int32_t minimum, int32_t maximum)
{
    const int32_t limit = 1 << 16; /* beyond int8 with any zero point */
    value = value > limit ? limit : value;
    value = value < -limit ? -limit : value;
    return lab_clamp_int8(value + zero_point, minimum, maximum);
}

/* An int8 tensor brought from one quantisation to another and clamped.
 * input, output [size]. No scratch; output may be input. */
typedef struct {
    int32_t size;
    int32_t multiplier, shift;
    int32_t input_zero_point;
    int32_t output_zero_point, output_minimum, output_maximum;
} lab_rescale_t;

void lab_rescale(const lab_rescale_t *layer, const int8_t *input, int8_t *output);

#endif
