#include "lab_i32_equal.h"

void lab_i32_equal(const lab_i32_equal_t *layer, const int32_t *input, float *output)
{
    for (int32_t i = 0; i < layer->count; i++)
        output[i] = input[i] == layer->value ? 1.0f : 0.0f;
}
