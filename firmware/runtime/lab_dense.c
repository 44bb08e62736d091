#include "lab_dense.h"

#include "lab_dot.h"
#include "lab_requantize.h"

/* The 4 products of inputs x rows x outputs at position i; written out because compilers keep the loop at -O2. */
#define STEP(i)                  \
    do {                         \
        const int32_t a0 = x0[i]; \
        const int32_t b0 = w0[i]; \
        const int32_t b1 = w1[i]; \
        const int32_t a1 = x1[i]; \
        sums[0] += a0 * b0;      \
        sums[1] += a0 * b1;      \
        sums[2] += a1 * b0;      \
        sums[3] += a1 * b1;      \
    } while (0)

static lab_requantization_t requantization(const lab_dense_t *dense)
{
    const lab_requantization_t how = {
        .multiplier = dense->multiplier,
        .shift = dense->shift,
        .zero_point = dense->output_zero_point,
        .minimum = dense->output_minimum,
        .maximum = dense->output_maximum,
    };
    return how;
}

/* sums[2 * row + output] += row . weights, for two rows and two outputs: 4 loads for 4 multiply-accumulates, and all of
 * it in registers. */
static void dot_2x2(const int8_t *x0, const int8_t *x1, const int8_t *w0, const int8_t *w1, int32_t count,
                    int32_t *result)
{
    int32_t sums[4] = {result[0], result[1], result[2], result[3]};
    const int8_t *const end = x0 + (count & ~3);
    while (x0 != end) {
        STEP(0);
        STEP(1);
        STEP(2);
        STEP(3);
        x0 += 4;
        x1 += 4;
        w0 += 4;
        w1 += 4;
    }
    for (int32_t i = 0; i < (count & 3); i++) {
        STEP(i);
    }
    for (int32_t i = 0; i < 4; i++) {
        result[i] = sums[i];
    }
}

void lab_dense_row(const lab_dense_t *dense, const int8_t *row, int8_t *output)
{
    const lab_requantization_t how = requantization(dense);
    const int32_t inputs = dense->inputs;
    const int8_t *weights = dense->weights;
    int32_t o = 0;
    for (; o + 3 < dense->outputs; o += 4) {
        int32_t sums[4] = {dense->bias[o], dense->bias[o + 1], dense->bias[o + 2], dense->bias[o + 3]};
        lab_dot_1x4(row, weights, inputs, sums);
        weights += 4 * inputs;
        for (int32_t i = 0; i < 4; i++) {
            output[o + i] = lab_requantize_int8(how, sums[i], o + i);
        }
    }
    for (; o < dense->outputs; o++) {
        output[o] = lab_requantize_int8(how, lab_dot(row, weights, inputs, dense->bias[o]), o);
        weights += inputs;
    }
}

void lab_dense_two_rows(const lab_dense_t *dense, const int8_t *row0, const int8_t *row1, int8_t *output0,
                        int8_t *output1)
{
    const lab_requantization_t how = requantization(dense);
    const int32_t inputs = dense->inputs;
    const int8_t *weights = dense->weights;
    int32_t o = 0;
    for (; o + 1 < dense->outputs; o += 2) {
        const int32_t bias0 = dense->bias[o];
        const int32_t bias1 = dense->bias[o + 1];
        int32_t sums[4] = {bias0, bias1, bias0, bias1};
        dot_2x2(row0, row1, weights, weights + inputs, inputs, sums);
        weights += 2 * inputs;
        for (int32_t i = 0; i < 2; i++) {
            output0[o + i] = lab_requantize_int8(how, sums[i], o + i);
            output1[o + i] = lab_requantize_int8(how, sums[2 + i], o + i);
        }
    }
    if (o < dense->outputs) {
        output0[o] = lab_requantize_int8(how, lab_dot(row0, weights, inputs, dense->bias[o]), o);
        output1[o] = lab_requantize_int8(how, lab_dot(row1, weights, inputs, dense->bias[o]), o);
    }
}
