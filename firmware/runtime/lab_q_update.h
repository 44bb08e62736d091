/* Updates of int8 weights in place: SGD on the real values, expressed on the int8 grid (quantisation-aware scaling, Lin
 * et al. 2022, "On-Device Training Under 256KB Memory", section 2.1), with stochastic rounding and saturation.
 *
 * A weight is worth weight_scale * w. The step of the real weight is rate * gradient, of w it is step = rate * gradient
 * / weight_scale; w becomes floor(w - step + u), u uniform in [0, 1), so that steps below one level count in the mean.
 * It is done with 20 fractional bits: with factor = (rate / weight_scale) * 2^20 and d = gradient * factor, each
 * operation in float32, d is limited to +-2^29 and truncated to an integer; w = ((w * 2^20 - d + lab_random_at(key,
 * index)) >> 20) limited to [-127, 127]; index is the weight's in its tensor. */
#ifndef LAB_Q_UPDATE_H
#define LAB_Q_UPDATE_H

#include <stdint.h>

#include "lab_f32_sink.h"
#include "lab_random.h"

static inline float lab_q_factor(float rate, float weight_scale)
{
    return rate / weight_scale * (float)(1 << LAB_RANDOM_BITS);
}

static inline int8_t lab_q_updated(int8_t weight, float gradient, float factor, uint32_t random)
{
    float step = gradient * factor;
    /* Written so that a NaN ends at a limit: converting it to an integer would be undefined. */
    if (!(step < 536870912.0f)) {
        step = 536870912.0f;
    }
    if (!(step > -536870912.0f)) {
        step = -536870912.0f;
    }
    const int32_t scaled = weight * (1 << LAB_RANDOM_BITS) - (int32_t)step + (int32_t)random;
    const int32_t updated = scaled >> LAB_RANDOM_BITS;
    if (updated > 127) {
        return 127;
    }
    return (int8_t)(updated < -127 ? -127 : updated);
}

/* Sinks: update weights[row_index + column] with gradient input_scale * sum. */
typedef struct {
    int8_t *weights;           /* of the whole tensor */
    const float *weight_scale; /* of the first row or column */
    int32_t first;             /* index of the target's first weight */
    float input_scale, rate;
    uint32_t key;
} lab_q_update_t;

void lab_q_update_by_row(const void *context, const float *sums, const lab_f32_place_t *place);
void lab_q_update_by_column(const void *context, const float *sums, const lab_f32_place_t *place);

/* Sink: target = input_scale * sum. */
typedef struct {
    float *target;
    float input_scale;
} lab_q_store_t;

void lab_q_store(const void *context, const float *sums, const lab_f32_place_t *place);

#endif
