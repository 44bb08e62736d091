#include "lab_q_update.h"

void lab_q_update_by_row(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_q_update_t update = *(const lab_q_update_t *)context;
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        const float factor = lab_q_factor(update.rate, update.weight_scale[place->row + row]);
        for (int32_t column = place->column_begin; column < place->column_end; column++) {
            const int32_t index = update.first + place->row_index[row] + column;
            const float gradient = sums[4 * row + column] * update.input_scale;
            update.weights[index] =
                lab_q_updated(update.weights[index], gradient, factor, lab_random_at(update.key, (uint32_t)index));
        }
    }
}

void lab_q_update_by_column(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_q_update_t update = *(const lab_q_update_t *)context;
    for (int32_t column = place->column_begin; column < place->column_end; column++) {
        const float factor = lab_q_factor(update.rate, update.weight_scale[place->column + column]);
        const int32_t index = update.first + place->row_index[0] + column;
        update.weights[index] = lab_q_updated(update.weights[index], sums[column] * update.input_scale, factor,
                                              lab_random_at(update.key, (uint32_t)index));
    }
}

void lab_q_store(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_q_store_t store = *(const lab_q_store_t *)context;
    for (int32_t row = place->row_begin; row < place->row_end; row++) {
        for (int32_t column = place->column_begin; column < place->column_end; column++) {
            store.target[place->row_index[row] + column] = sums[4 * row + column] * store.input_scale;
        }
    }
}
