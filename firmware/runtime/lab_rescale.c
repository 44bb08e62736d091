#include "lab_rescale.h"

void lab_rescale(const lab_rescale_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t i = 0; i < layer->size; i++) {
        const int32_t scaled = lab_rescale_value(input[i] - layer->input_zero_point, layer->multiplier, layer->shift);
        output[i] =
            lab_rescale_int8(scaled, layer->output_zero_point, layer->output_minimum, layer->output_maximum);
    }
}
