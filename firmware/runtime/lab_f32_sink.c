#include "lab_f32_sink.h"

#include "lab_f32_arithmetic.h"

void lab_f32_store(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_f32_store_t store = *(const lab_f32_store_t *)context;
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        float *const target = store.target + place->row_index[row];
        for (int32_t column = place->column_begin; column < place->column_end; column++) {
            float sum = sums[4 * row + column];
            if (store.bias != 0) {
                sum += store.bias[place->column + column];
            }
            target[column] = lab_f32_clamp(sum, store.minimum, store.maximum);
        }
    }
}

void lab_f32_update(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_f32_update_t update = *(const lab_f32_update_t *)context;
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        float *const target = update.target + place->row_index[row];
        for (int32_t column = place->column_begin; column < place->column_end; column++) {
            const float weight = target[column];
            const float gradient = LAB_MULTIPLY_ADD(update.weight_decay, weight, sums[4 * row + column]);
            target[column] = LAB_MULTIPLY_ADD(-update.rate, gradient, weight);
        }
    }
}
