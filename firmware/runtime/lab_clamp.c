#include "lab_clamp.h"

#include "lab_requantize.h"

void lab_clamp(const lab_clamp_t *layer, const int8_t *input, int8_t *output)
{
    for (int32_t i = 0; i < layer->size; i++) {
        output[i] = lab_clamp_int8(input[i], layer->minimum, layer->maximum);
    }
}
