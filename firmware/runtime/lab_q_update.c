#include "lab_q_update.h"

/* Everything that does not change lies in locals: the weights are bytes, which may alias the context. */
void lab_q_update_rows(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_q_update_rows_t update = *(const lab_q_update_rows_t *)context;
    const int32_t column_begin = place->column_begin;
    const int32_t column_end = place->column_end;
    const int32_t row_end = place->row_end;
    const int32_t first_row = place->row;
    for (int32_t row = place->row_begin; row < row_end; row++) {
        const int32_t output = update.first_output + first_row + row;
        const float factor = lab_q_factor(update.rate, update.weight_scale[output]);
        const uint8_t flip = lab_q_weight_flip(output);
        uint8_t *const bytes = (uint8_t *)update.weights + lab_q_weight_index(output, 0, update.inputs);
        /* The place counts rows from the slice's first output. */
        const int32_t input = update.first + place->row_index[row] - (first_row + row) * update.inputs;
        const float *const row_sums = sums + 4 * row;
        int32_t moved = 0;
        for (int32_t column = column_begin; column < column_end; column++) {
            const uint32_t random = lab_random_at(update.key, (uint32_t)(output * update.inputs + input + column));
            uint8_t *const byte = bytes + lab_q_weight_index(0, input + column, 0);
            const int8_t weight = (int8_t)(*byte ^ flip);
            const int8_t updated = lab_q_updated(weight, row_sums[column] * update.input_scale, factor, random);
            moved += updated - weight;
            *byte = (uint8_t)updated ^ flip;
        }
        update.bias[output] -= update.bias_offset * moved;
    }
}

void lab_q_update_columns(const void *context, const float *sums, const lab_f32_place_t *place)
{
    const lab_q_update_columns_t update = *(const lab_q_update_columns_t *)context;
    for (int32_t column = place->column_begin; column < place->column_end; column++) {
        const int32_t channel = place->column + column;
        const float factor = lab_q_factor(update.rate, update.weight_scale[channel]);
        const int32_t index = update.first + place->row_index[0] + column;
        update.weights[index] = lab_q_moved(update.weights[index], sums[column] * update.input_scale, factor,
                                            lab_random_at(update.key, (uint32_t)index), update.bias_offset,
                                            update.bias + channel);
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
