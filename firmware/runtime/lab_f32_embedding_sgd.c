#include "lab_f32_embedding_sgd.h"

void lab_f32_embedding_sgd(const lab_f32_embedding_sgd_t *layer, const float *gradient, const int32_t *indices,
                           float *table, lab_training_state_t *state)
{
    const float rate = layer->rate_scale * state->learning_rate;
    const int32_t columns = layer->columns;
    for (int32_t i = 0; i < layer->count; i++, gradient += columns) {
        const int32_t row = indices[i];
        if (row == layer->ignored || row < 0 || row >= layer->rows)
            continue;
        for (int32_t c = 0; c < columns; c++)
            table[row * columns + c] -= rate * gradient[c];
    }
}
