#include "lab_add.h"

#include "lab_requantize.h"

/* Inputs are raised by 2^20 before they are brought to a common scale, so that this step loses nothing that counts. */
#define HEADROOM (1 << 20)

void lab_add(const lab_add_t *layer, const int8_t *first, const int8_t *second, int8_t *output)
{
    for (int32_t i = 0; i < layer->size; i++) {
        const int32_t a = (first[i] - layer->first_zero_point) * HEADROOM;
        const int32_t b = (second[i] - layer->second_zero_point) * HEADROOM;
        const int32_t sum = lab_requantize(a, layer->first_multiplier, (uint32_t)layer->first_shift) +
                            lab_requantize(b, layer->second_multiplier, (uint32_t)layer->second_shift);
        const int32_t scaled = lab_requantize(sum, layer->output_multiplier, (uint32_t)layer->output_shift);
        output[i] =
            lab_clamp_int8(scaled + layer->output_zero_point, layer->output_minimum, layer->output_maximum);
    }
}
