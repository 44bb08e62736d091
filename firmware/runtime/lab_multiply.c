#include "lab_multiply.h"

#include "lab_rescale.h"

void lab_multiply(const lab_multiply_t *layer, const int8_t *first, const int8_t *second, int8_t *output)
{
    int32_t a = 0, b = 0;
    for (int32_t i = 0; i < layer->size; i++) {
        const int32_t product = (first[a] - layer->first_zero_point) * (second[b] - layer->second_zero_point);
        const int32_t scaled = lab_rescale_value(product, layer->multiplier, layer->shift);
        output[i] = lab_rescale_int8(scaled, layer->output_zero_point, INT8_MIN, INT8_MAX);
        a = a + 1 == layer->first_size ? 0 : a + 1;
        b = b + 1 == layer->second_size ? 0 : b + 1;
    }
}
