/* Updates of int8 weights in place: SGD on the real values, expressed on the int8 grid (quantisation-aware scaling, Lin
 * et al. 2022, "On-Device Training Under 256KB Memory", section 2.1), with stochastic rounding and saturation.
 *
 * A weight is worth weight_scale * w. The step of the real weight is rate * gradient, of w it is step = rate * gradient
 * / weight_scale; w becomes floor(w - step + u), u uniform in [0, 1), so that steps below one level count in the mean.
 * It is done with 20 fractional bits: with factor = (rate / weight_scale) * 2^20 and d = gradient * factor, each
 * operation in float32, d is limited to +-2^29 and truncated to an integer; w = ((w * 2^20 - d + lab_random_at(key,
 * index)) >> 20) limited to [-127, 127]; index is the weight's in its tensor in plain
 * order, [outputs][...inputs] or, depthwise, [taps][channels], however it is packed. */
#ifndef LAB_Q_UPDATE_H
#define LAB_Q_UPDATE_H

#include <stdint.h>

#include "lab_f32_sink.h"
#include "lab_q_weights.h"
#include "lab_random.h"

static inline float lab_q_factor(float rate, float weight_scale)
{
    return rate / weight_scale * (float)(1 << LAB_RANDOM_BITS);
}

static inline int8_t lab_q_updated(int8_t weight, float gradient, float factor, uint32_t random)
{
    float step = gradient * factor;
    /* Written so that a NaN ends at a limit: converting it to an integer would be undefined. */
    if (!(__builtin_fabsf(step) < 536870912.0f)) {
        step = step < 0.0f ? -536870912.0f : 536870912.0f;
    }
    const int32_t scaled = weight * (1 << LAB_RANDOM_BITS) - (int32_t)step + (int32_t)random;
    const int32_t updated = scaled >> LAB_RANDOM_BITS;
    if (updated > 127) {
        return 127;
    }
    return (int8_t)(updated < -127 ? -127 : updated);
}

/* One weight, and with it what is folded into its output's bias: bias holds the real bias on its grid less bias_offset
 * times the sum of the output's weights, which must stay true. */
static inline int8_t lab_q_moved(int8_t weight, float gradient, float factor, uint32_t random, int32_t bias_offset,
                                 int32_t *bias)
{
    const int8_t updated = lab_q_updated(weight, gradient, factor, random);
    *bias -= bias_offset * (updated - weight);
    return updated;
}

/* Sink for packed rows (lab_dense.h): the gradient of a weight is input_scale * sum; a block's rows are outputs. */
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

/* Sink for depthwise weights [taps][channels] in plain order; a block's columns are channels. */
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
