#include "lab_f32_sink.h"

#include <math.h>

#include "lab_f32_arithmetic.h"

void lab_f32_store(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_f32_store_t *const store = context;
    const float *const bias = store->bias;
    const float minimum = store->minimum;
    const float maximum = store->maximum;
    const int plain = bias == 0 && minimum == -INFINITY && maximum == INFINITY;
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        float *const target = store->target + place->row_index[row];
        int32_t column = place->column_begin;
        if (plain) {
            for (; column + 3 < place->column_end; column += 4) {
                const float s0 = sums[4 * row + column];
                const float s1 = sums[4 * row + column + 1];
                const float s2 = sums[4 * row + column + 2];
                const float s3 = sums[4 * row + column + 3];
                target[column] = s0;
                target[column + 1] = s1;
                target[column + 2] = s2;
                target[column + 3] = s3;
            }
        }
        for (; column < place->column_end; column++) {
            float sum = sums[4 * row + column];
            if (bias != 0) {
                sum += bias[place->column + column];
            }
            target[column] = lab_f32_clamp(sum, minimum, maximum);
        }
    }
}

/* A weight after its step. */
static inline float stepped(float weight, float sum, float rate, float weight_decay)
{
    return LAB_MULTIPLY_ADD(-rate, LAB_MULTIPLY_ADD(weight_decay, weight, sum), weight);
}

void lab_f32_update(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_f32_update_t *const update = context;
    const float rate = update->rate;
    const float decay = update->weight_decay;
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        float *const target = update->target + place->row_index[row];
        int32_t column = place->column_begin;
        for (; column + 3 < place->column_end; column += 4) {
            const float w0 = stepped(target[column], sums[4 * row + column], rate, decay);
            const float w1 = stepped(target[column + 1], sums[4 * row + column + 1], rate, decay);
            const float w2 = stepped(target[column + 2], sums[4 * row + column + 2], rate, decay);
            const float w3 = stepped(target[column + 3], sums[4 * row + column + 3], rate, decay);
            target[column] = w0;
            target[column + 1] = w1;
            target[column + 2] = w2;
            target[column + 3] = w3;
        }
        for (; column < place->column_end; column++) {
            target[column] = stepped(target[column], sums[4 * row + column], rate, decay);
        }
    }
}
