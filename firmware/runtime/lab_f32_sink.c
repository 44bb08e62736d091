#include "lab_f32_sink.h"

#include <math.h>

#include "lab_f32_arithmetic.h"

#if LAB_F32_THUMB_FPU

#include "arm/lab_f32_sink_arm.h"

#else

static inline void store_four(float *target, const float *sums)
{
    for (int32_t i = 0; i < 4; i++) {
        target[i] = sums[i];
    }
}

static inline void update_four(float *target, const float *sums, float scale, float decay)
{
    for (int32_t i = 0; i < 4; i++) {
        target[i] = LAB_MULTIPLY_ADD(scale, LAB_MULTIPLY_ADD(decay, target[i], sums[i]), target[i]);
    }
}

#endif

/* Sums as they are. */
static void store_plain(float *target, const float *sums, const lab_f32_place_t *place)
{
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        int32_t column = place->column_begin;
        for (; column + 4 <= place->column_end; column += 4) {
            store_four(target + place->row_index[row] + column, sums + 4 * row + column);
        }
        for (; column < place->column_end; column++) {
            target[place->row_index[row] + column] = sums[4 * row + column];
        }
    }
}

void lab_f32_store(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_f32_store_t *const store = context;
    const float *const bias = store->bias;
    const float minimum = store->minimum;
    const float maximum = store->maximum;
    if (bias == 0 && minimum == -INFINITY && maximum == INFINITY) {
        store_plain(store->target, sums, place);
        return;
    }
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        float *const target = store->target + place->row_index[row];
        for (int32_t column = place->column_begin; column < place->column_end; column++) {
            const float addend = bias != 0 ? bias[place->column + column] : 0.0f;
            target[column] = lab_f32_clamp(sums[4 * row + column] + addend, minimum, maximum);
        }
    }
}

void lab_f32_update(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_f32_update_t *const update = context;
    const float scale = -update->rate;
    const float decay = update->weight_decay;
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        float *const target = update->target + place->row_index[row];
        int32_t column = place->column_begin;
        for (; column + 4 <= place->column_end; column += 4) {
            update_four(target + column, sums + 4 * row + column, scale, decay);
        }
        for (; column < place->column_end; column++) {
            const float gradient = LAB_MULTIPLY_ADD(decay, target[column], sums[4 * row + column]);
            target[column] = LAB_MULTIPLY_ADD(scale, gradient, target[column]);
        }
    }
}
