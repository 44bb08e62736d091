#include "lab_dequantize.h"

void lab_dequantize(const lab_dequantize_t *layer, const int8_t *input, float *output)
{
    for (int32_t i = 0; i < layer->count; i++) {
        output[i] = (float)(input[i] - layer->zero_point) * layer->scale;
    }
}
