#include "lab_table.h"

void lab_table(const lab_table_t *layer, const int8_t *input, int8_t *output)
{
    const int8_t *middle = layer->table + 128;
    for (int32_t i = 0; i < layer->size; i++) {
        output[i] = middle[input[i]];
    }
}

void lab_table_gradient(const lab_table_gradient_t *layer, const float *gradient, const int8_t *value, float *output)
{
    const float *middle = layer->slopes + 128;
    for (int32_t i = 0; i < layer->size; i++) {
        output[i] = gradient[i] * middle[value[i]];
    }
}
