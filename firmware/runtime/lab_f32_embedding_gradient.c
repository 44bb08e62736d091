#include "lab_f32_embedding_gradient.h"

void lab_f32_embedding_gradient(const lab_f32_embedding_gradient_t *layer, const float *gradient,
                                const int32_t *indices, float *output)
{
    const int32_t columns = layer->columns;
    for (int32_t i = 0; i < layer->rows * columns; i++)
        output[i] = 0.0f;
    for (int32_t i = 0; i < layer->count; i++, gradient += columns) {
        const int32_t row = indices[i];
        if (row == layer->ignored || row < 0 || row >= layer->rows)
            continue;
        for (int32_t c = 0; c < columns; c++)
            output[row * columns + c] += gradient[c];
    }
}
