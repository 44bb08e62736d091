#include "lab_softmax.h"

#include "lab_requantize.h"

#define ONE_QUARTER (1 << 24)  /* in Q5.26 */
#define ACCUMULATION_BITS 12   /* integer bits of the sum */

/* a * b in Q31, to nearest; no operands here are both INT32_MIN. */
static int32_t multiply(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (INT64_C(1) << 30)) >> 31);
}

/* x / 2^exponent to nearest, ties away from zero; exponent 1 ... 31. */
static int32_t divide_by_power(int32_t x, int32_t exponent)
{
    const int64_t half = INT64_C(1) << (exponent - 1);
    return (int32_t)((x + half - (x < 0)) >> exponent);
}

/* x * 2^exponent, saturated. */
static int32_t multiply_by_power(int32_t x, int32_t exponent)
{
    const int64_t wide = (int64_t)x * (INT64_C(1) << exponent);
    if (wide > INT32_MAX) {
        return INT32_MAX;
    }
    return wide < INT32_MIN ? INT32_MIN : (int32_t)wide;
}

/* exp(a) in Q31 for a in [-1/4, 0) in Q31: Taylor expansion around -1/8. */
static int32_t exp_of_quarter(int32_t a)
{
    const int32_t centre = 1895147668; /* exp(-1/8) */
    const int32_t one_third = 715827883;
    const int32_t x = a + (1 << 28);
    const int32_t x2 = multiply(x, x);
    const int32_t x3 = multiply(x2, x);
    const int32_t x4_over_4 = divide_by_power(multiply(x2, x2), 2);
    const int32_t higher = divide_by_power(multiply(x4_over_4 + x3, one_third) + x2, 1);
    return centre + multiply(centre, x + higher);
}

/* exp(a) in Q31 for a <= 0 in Q5.26: the part below a quarter by expansion, each higher bit by its own factor. */
static int32_t exp_of_negative(int32_t a)
{
    static const int32_t factors[7] = {/* exp(-2^-2) ... exp(-2^4) */
                                       1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
    const int32_t fraction = (a & (ONE_QUARTER - 1)) - ONE_QUARTER;
    const uint32_t remainder = (uint32_t)fraction - (uint32_t)a;
    int32_t result = exp_of_quarter(fraction * 32);
    if (a == 0) {
        return INT32_MAX;
    }
    for (int32_t bit = 0; bit < 7; bit++) {
        if (remainder & ((uint32_t)ONE_QUARTER << bit)) {
            result = multiply(result, factors[bit]);
        }
    }
    return result;
}

/* 1 / (1 + a) in Q31 for a in [0, 1) in Q31; Newton's method in Q2.29 on half the denominator. */
static int32_t reciprocal_of_one_plus(int32_t a)
{
    const int32_t half_denominator = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
    int32_t x = 1515870810 + multiply(half_denominator, -1010580540); /* 48/17 - 32/17 d */
    for (int32_t i = 0; i < 3; i++) {
        const int32_t error = (1 << 29) - multiply(half_denominator, x);
        x += multiply_by_power(multiply(x, error), 2);
    }
    return multiply_by_power(x, 1);
}

static int32_t leading_zeros(uint32_t x)
{
    int32_t count = 0;
    while (count < 32 && !(x & 0x80000000u)) {
        x <<= 1;
        count++;
    }
    return count;
}

/* exp((value - maximum) * scale) in Q31; 0 where it is too small to count. */
static int32_t exponential(const lab_softmax_t *layer, int32_t difference)
{
    if (difference < layer->minimum_difference) {
        return 0;
    }
    return exp_of_negative(multiply(difference * (1 << layer->left_shift), layer->multiplier));
}

static void softmax_row(const lab_softmax_t *layer, const int8_t *input, int8_t *output)
{
    int32_t maximum = INT8_MIN;
    int32_t sum = 0;
    for (int32_t i = 0; i < layer->depth; i++) {
        maximum = input[i] > maximum ? input[i] : maximum;
    }
    for (int32_t i = 0; i < layer->depth; i++) {
        sum += divide_by_power(exponential(layer, input[i] - maximum), ACCUMULATION_BITS);
    }
    const int32_t headroom = leading_zeros((uint32_t)sum);
    const int32_t scale = reciprocal_of_one_plus((int32_t)(((uint32_t)sum << headroom) - 0x80000000u));
    const int32_t shift = ACCUMULATION_BITS - headroom + 31 - 8;
    for (int32_t i = 0; i < layer->depth; i++) {
        const int32_t product = multiply(scale, exponential(layer, input[i] - maximum));
        output[i] = lab_clamp_int8(divide_by_power(product, shift) + INT8_MIN, INT8_MIN, INT8_MAX);
    }
}

void lab_softmax(const lab_softmax_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t row = 0; row < layer->rows; row++) {
        softmax_row(layer, input, output);
        input += layer->depth;
        output += layer->depth;
    }
}
