/* Updates of int8 weights in place: SGD on the real values, expressed on the int8 grid (quantisation-aware scaling, Lin
 * et al. 2022, "On-Device Training Under 256KB Memory", section 2.1), with stochastic rounding and saturation.
 *
 * A weight is worth weight_scale * w. The step of the real weight is rate * gradient, of w it is step = rate * gradient
 * / weight_scale; w becomes floor(w - step + u), u uniform in [0, 1), so that steps below one level count in the mean.
 * It is done with 24 fractional bits, each operation in float32 or saturating in int32: the gradient is input_scale *
 * sum, factor = (rate / weight_scale) * input_scale * 2^24, d = sum * factor truncated to int32 (NaN to 0); w =
 * ((w * 2^24 + lab_random_at(key, index) - d) >> 24) limited to [-127, 127]; index is the weight's in its tensor in
 * plain order, [outputs][...inputs] or, depthwise, [taps][channels], however it is packed. One update moves a weight by
 * at most 128 levels. */
#ifndef LAB_Q_UPDATE_H
#define LAB_Q_UPDATE_H

#include <stdint.h>

#include "lab_f32_sink.h"
#include "lab_random.h"

/* Sink for packed rows (lab_dense.h): the gradient of a weight is input_scale * sum; a block's rows are outputs, its
 * columns begin at 0. */
typedef struct {
    int32_t *weights;          /* of the whole tensor, packed */
    int32_t *bias;             /* of the whole tensor */
    const float *weight_scale; /* of the whole tensor */
    int32_t inputs;            /* weights of an output */
    int32_t first_output;      /* output of row 0 */
    int32_t first;             /* weight of row 0's output that column 0 of tap 0 is */
    int32_t bias_offset;
    float input_scale, rate;
    uint32_t key;
} lab_q_update_rows_t;

void lab_q_update_rows(const void *context, const float *sums, const lab_f32_place_t *place);

/* Sink for depthwise weights [taps][channels] in plain order; a block's columns are channels, from 0 on. */
typedef struct {
    int8_t *weights;           /* of the whole tensor */
    int32_t *bias;             /* of the slice's first channel */
    const float *weight_scale; /* of the slice's first channel */
    int32_t first;             /* index of the slice's first weight */
    int32_t bias_offset;
    float input_scale, rate;
    uint32_t key;
} lab_q_update_columns_t;

void lab_q_update_columns(const void *context, const float *sums, const lab_f32_place_t *place);

/* Sink: target = input_scale * sum. */
typedef struct {
    float *target;
    float input_scale;
} lab_q_store_t;

void lab_q_store(const void *context, const float *sums, const lab_f32_place_t *place);

#endif
