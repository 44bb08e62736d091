/* Fixed-point requantisation, exactly as in TFLite's reference kernels, for multipliers below one.
 *
 * value · multiplier · 2^-31 · 2^-shift is rounded twice: to nearest with ties towards +infinity
 * (SaturatingRoundingDoublingHighMul; it cannot saturate for multiplier >= 0), then to nearest with ties away from zero
 * (RoundingDivideByPOT). The compiler guarantees |value| < 2^30, so that neither rounding term overflows.
 * Right shifts of negative numbers are arithmetic on every compiler we build with (gcc, clang, Arm). */
#ifndef LAB_REQUANTIZE_H
#define LAB_REQUANTIZE_H

#include <stdint.h>

static inline int32_t lab_requantize(int32_t value, int32_t multiplier, uint32_t shift)
{
    const int32_t high = (int32_t)(((int64_t)value * multiplier + (INT64_C(1) << 30)) >> 31);
    /* Half of 2^shift, 0 for shift 0; one less for negative numbers makes their ties go away from zero. */
    const int32_t half = (int32_t)((UINT32_C(1) << shift) >> 1);
    const int32_t towards = (half != 0) ? (high >> 31) : 0;
    return (high + half + towards) >> shift;
}

static inline int8_t lab_clamp_int8(int32_t value, int32_t minimum, int32_t maximum)
{
    if (value < minimum) {
        value = minimum;
    }
    if (value > maximum) {
        value = maximum;
    }
    return (int8_t)value;
}

/* Where the requantisation of a layer's outputs comes from and goes to. Passed by value: stores to int8_t may alias the
 * layer's descriptor, and the compiler would load these again after each of them. */
typedef struct {
    const int32_t *multiplier; /* of the first output */
    const uint8_t *shift;
    int32_t zero_point, minimum, maximum;
} lab_requantization_t;

static inline int8_t lab_requantize_int8(const lab_requantization_t how, int32_t sum, int32_t output)
{
    const int32_t scaled = lab_requantize(sum, how.multiplier[output], how.shift[output]) + how.zero_point;
    return lab_clamp_int8(scaled, how.minimum, how.maximum);
}

#endif
