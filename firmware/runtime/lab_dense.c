#include "lab_dense.h"

#include "lab_dot.h"
#include "lab_requantize.h"

static lab_requantization_t lab_dense_requantization(const lab_dense_t *dense)
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

#if defined(__ARM_FEATURE_MVE)
#include "arm/block_mve.h"
#elif defined(__ARM_FEATURE_DSP)
#include "arm/block_dsp.h"
#else
/* Rows one by one. */
int32_t lab_dense_fast(const lab_dense_t *dense)
{
    (void)dense;
    return 0;
}
#endif

void lab_dense_row(const lab_dense_t *dense, const int8_t *row, int8_t *output, int8_t *scratch)
{
    const lab_requantization_t how = lab_dense_requantization(dense);
    const lab_row_t values = lab_row(row, dense->inputs, scratch);
    const int32_t words = lab_dense_padded(dense->inputs) / 2;
    const int32_t *weights = dense->weights;
    for (int32_t o = 0; o < dense->outputs; o += 2) {
        const int32_t two = o + 1 < dense->outputs;
        int32_t sums[2] = {dense->bias[o], two ? dense->bias[o + 1] : 0};
        lab_row_dot(&values, weights, sums);
        weights += words;
        output[o] = lab_requantize_int8(how, sums[0], o);
        if (two) {
            output[o + 1] = lab_requantize_int8(how, sums[1], o + 1);
        }
    }
}

void lab_dense_four_rows(const lab_dense_t *dense, int32_t fast, const int8_t *const rows[4], int8_t *output,
                         int8_t *scratch)
{
#if defined(__ARM_FEATURE_DSP)
    if (fast) {
        uint32_t *const values = (uint32_t *)(void *)scratch;
        lab_block_t block = {.next = values, .inputs = lab_dense_padded(dense->inputs)};
        lab_block_append(&block, rows, dense->inputs);
        lab_block_multiply(dense, &block, values, output);
        return;
    }
#endif
    (void)fast;
    for (int32_t i = 0; i < 4; i++) {
        lab_dense_row(dense, rows[i], output + i * dense->outputs, scratch);
    }
}
