#include "lab_softmax.h"

#include "lab_fixed_point.h"
#include "lab_requantize.h"

#define ACCUMULATION_BITS 12 /* integer bits of the sum */

/* x * 2^exponent, saturated. */
static int32_t multiply_by_power(int32_t x, int32_t exponent)
{
    const int64_t wide = (int64_t)x * (INT64_C(1) << exponent);
    if (wide > INT32_MAX) {
        return INT32_MAX;
    }
    return wide < INT32_MIN ? INT32_MIN : (int32_t)wide;
}

/* 1 / (1 + a) in Q31 for a in [0, 1) in Q31; Newton's method in Q2.29 on half the denominator. */
static int32_t reciprocal_of_one_plus(int32_t a)
{
    const int32_t half_denominator = (int32_t)(((int64_t)a + INT32_MAX + 1) / 2);
    int32_t x = 1515870810 + lab_q31_multiply(half_denominator, -1010580540); /* 48/17 - 32/17 d */
    for (int32_t i = 0; i < 3; i++) {
        const int32_t error = (1 << 29) - lab_q31_multiply(half_denominator, x);
        x += multiply_by_power(lab_q31_multiply(x, error), 2);
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
    return lab_q31_exp_of_negative(lab_q31_multiply(difference * (1 << layer->left_shift), layer->multiplier));
}

/* From the table of all differences 0, -1 ... -255, where there is one. */
static int32_t looked_up(const lab_softmax_t *layer, const int32_t *table, int32_t difference)
{
    return table ? table[-difference] : exponential(layer, difference);
}

static void softmax_row(const lab_softmax_t *layer, const int32_t *table, const int8_t *input, int8_t *output)
{
    int32_t maximum = INT8_MIN;
    int32_t sum = 0;
    for (int32_t i = 0; i < layer->depth; i++) {
        maximum = input[i] > maximum ? input[i] : maximum;
    }
    for (int32_t i = 0; i < layer->depth; i++) {
        sum += lab_divide_by_power(looked_up(layer, table, input[i] - maximum), ACCUMULATION_BITS);
    }
    const int32_t headroom = leading_zeros((uint32_t)sum);
    const int32_t scale = reciprocal_of_one_plus((int32_t)(((uint32_t)sum << headroom) - 0x80000000u));
    const int32_t shift = ACCUMULATION_BITS - headroom + 31 - 8;
    for (int32_t i = 0; i < layer->depth; i++) {
        const int32_t product = lab_q31_multiply(scale, looked_up(layer, table, input[i] - maximum));
        output[i] = lab_clamp_int8(lab_divide_by_power(product, shift) + INT8_MIN, INT8_MIN, INT8_MAX);
    }
}

void lab_softmax(const lab_softmax_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    int32_t *const table = (int32_t *)(void *)scratch;
    for (int32_t i = 0; table && i < 256; i++) {
        table[i] = exponential(layer, -i);
    }
    for (int32_t row = 0; row < layer->rows; row++) {
        softmax_row(layer, table, input, output);
        input += layer->depth;
        output += layer->depth;
    }
}
