#include "lab_dense.h"

#include "lab_requantize.h"

static int8_t finish(const lab_dense_t *dense, int32_t output, int32_t sum)
{
    const int32_t scaled = lab_requantize(sum, dense->multiplier[output], dense->shift[output]);
    return lab_clamp_int8(scaled + dense->output_zero_point, dense->output_minimum, dense->output_maximum);
}

static int32_t dot(const int8_t *x, const int8_t *w, int32_t count)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < count; i++) {
        sum += x[i] * w[i];
    }
    return sum;
}

void lab_dense_row(const lab_dense_t *dense, const int8_t *row, int8_t *output)
{
    const int32_t inputs = dense->inputs;
    const int8_t *w0 = dense->weights;
    int32_t o = 0;
    for (; o + 1 < dense->outputs; o += 2) {
        const int8_t *x = row;
        const int8_t *w1 = w0 + inputs;
        int32_t sum0 = dense->bias[o];
        int32_t sum1 = dense->bias[o + 1];
        int32_t left = inputs;
        for (; left >= 4; left -= 4) {
            sum0 += x[0] * w0[0] + x[1] * w0[1] + x[2] * w0[2] + x[3] * w0[3];
            sum1 += x[0] * w1[0] + x[1] * w1[1] + x[2] * w1[2] + x[3] * w1[3];
            x += 4;
            w0 += 4;
            w1 += 4;
        }
        output[o] = finish(dense, o, sum0 + dot(x, w0, left));
        output[o + 1] = finish(dense, o + 1, sum1 + dot(x, w1, left));
        w0 = w1 + left;
    }
    if (o < dense->outputs) {
        output[o] = finish(dense, o, dense->bias[o] + dot(row, w0, inputs));
    }
}

/* 2 outputs x 2 rows: 4 loads for 4 multiply-accumulates, and everything the loop needs stays in registers. */
void lab_dense_two_rows(const lab_dense_t *dense, const int8_t *row0, const int8_t *row1, int8_t *output0,
                        int8_t *output1)
{
    const int32_t inputs = dense->inputs;
    const int8_t *w0 = dense->weights;
    int32_t o = 0;
    for (; o + 1 < dense->outputs; o += 2) {
        const int8_t *x0 = row0;
        const int8_t *x1 = row1;
        const int8_t *w1 = w0 + inputs;
        int32_t sum00 = dense->bias[o];
        int32_t sum01 = dense->bias[o + 1];
        int32_t sum10 = sum00;
        int32_t sum11 = sum01;
        int32_t left = inputs;
        for (; left >= 4; left -= 4) {
            for (int32_t i = 0; i < 4; i++) {
                const int32_t a0 = x0[i];
                const int32_t a1 = x1[i];
                const int32_t b0 = w0[i];
                const int32_t b1 = w1[i];
                sum00 += a0 * b0;
                sum01 += a0 * b1;
                sum10 += a1 * b0;
                sum11 += a1 * b1;
            }
            x0 += 4;
            x1 += 4;
            w0 += 4;
            w1 += 4;
        }
        output0[o] = finish(dense, o, sum00 + dot(x0, w0, left));
        output0[o + 1] = finish(dense, o + 1, sum01 + dot(x0, w1, left));
        output1[o] = finish(dense, o, sum10 + dot(x1, w0, left));
        output1[o + 1] = finish(dense, o + 1, sum11 + dot(x1, w1, left));
        w0 = w1 + left;
    }
    if (o < dense->outputs) {
        output0[o] = finish(dense, o, dense->bias[o] + dot(row0, w0, inputs));
        output1[o] = finish(dense, o, dense->bias[o] + dot(row1, w0, inputs));
    }
}
