/* Fixed-point functions as gemmlowp and TFLite's reference kernels define them; the same integers on every machine. */
#ifndef LAB_FIXED_POINT_H
#define LAB_FIXED_POINT_H

#include <stdint.h>

#define LAB_ONE_QUARTER (1 << 24) /* in Q5.26 */

/* a * b in Q31, to nearest; no operands here are both INT32_MIN. */
static inline int32_t lab_q31_multiply(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (INT64_C(1) << 30)) >> 31);
}

/* x / 2^exponent to nearest, ties away from zero; exponent 1 ... 31. */
static inline int32_t lab_divide_by_power(int32_t x, int32_t exponent)
{
    const int64_t half = INT64_C(1) << (exponent - 1);
    return (int32_t)((x + half - (x < 0)) >> exponent);
}

/* exp(a) in Q31 for a in [-1/4, 0) in Q31: Taylor expansion around -1/8. */
static inline int32_t lab_q31_exp_of_quarter(int32_t a)
{
    const int32_t centre = 1895147668; /* exp(-1/8) */
    const int32_t one_third = 715827883;
    const int32_t x = a + (1 << 28);
    const int32_t x2 = lab_q31_multiply(x, x);
    const int32_t x3 = lab_q31_multiply(x2, x);
    const int32_t x4_over_4 = lab_divide_by_power(lab_q31_multiply(x2, x2), 2);
    const int32_t higher = lab_divide_by_power(lab_q31_multiply(x4_over_4 + x3, one_third) + x2, 1);
    return centre + lab_q31_multiply(centre, x + higher);
}

/* exp(a) in Q31 for a <= 0 in Q5.26: the part below a quarter by expansion, each higher bit by its own factor. */
static inline int32_t lab_q31_exp_of_negative(int32_t a)
{
    static const int32_t factors[7] = {/* exp(-2^-2) ... exp(-2^4) */
                                       1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int32_t fraction = (a & (LAB_ONE_QUARTER - 1)) - LAB_ONE_QUARTER;
    const uint32_t remainder = (uint32_t)fraction - (uint32_t)a;
    int32_t result = lab_q31_exp_of_quarter(fraction * 32);
    if (a == 0) {
        return INT32_MAX;
    }
    for (int32_t bit = 0; bit < 7; bit++) {
        if (remainder & ((uint32_t)LAB_ONE_QUARTER << bit)) {
            result = lab_q31_multiply(result, factors[bit]);
        }
    }
    return result;
}

/* 2^29 / sqrt(value / 2^30) for value in [2^28, 2^30): Newton's method from a line that is off by a tenth at most. */
static inline int32_t lab_reciprocal_root(int32_t value)
{
    int64_t x = INT64_C(1181116006) - (((int64_t)value * 697932186) >> 30); /* 2.2 - 1.3 value, Q29 */
    for (int32_t i = 0; i < 4; i++) {
        const int64_t square = (x * x) >> 29;
        const int64_t product = (square * value) >> 30;
        x = (x * (INT64_C(3) * (1 << 29) - product)) >> 30;
    }
    return (int32_t)x;
}

#endif
