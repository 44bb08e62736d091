#include "lab_f32_embedding.h"

#include <math.h>

void lab_f32_embedding(const lab_f32_embedding_t *layer, const float *table, const int32_t *indices, float *output)
{
    for (int32_t i = 0; i < layer->count; i++, output += layer->columns) {
        const int32_t row = indices[i];
        const int known = row >= 0 && row < layer->rows;
        for (int32_t c = 0; c < layer->columns; c++)
            output[c] = known ? table[row * layer->columns + c] : NAN;
    }
}
