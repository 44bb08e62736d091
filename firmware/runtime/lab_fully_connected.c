#include "lab_fully_connected.h"

#include "lab_dot.h"
#include "lab_requantize.h"

static int8_t finish(const lab_fully_connected_t *layer, int32_t sum, int32_t output)
{
    const uint32_t shift = layer->shift[output];
    const int64_t half = INT64_C(1) << (shift - 1);
    const int64_t scaled = ((int64_t)sum * layer->multiplier[output] + half) >> shift;
    const int64_t limit = 1 << 16; /* beyond int8 with any zero point */
    const int64_t bounded = scaled > limit ? limit : (scaled < -limit ? -limit : scaled);
    return lab_clamp_int8((int32_t)bounded + layer->output_zero_point, layer->output_minimum, layer->output_maximum);
}

void lab_fully_connected(const lab_fully_connected_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t inputs = layer->inputs;
    const int8_t *weights = layer->weights;
    int32_t o = 0;
    for (; o + 3 < layer->outputs; o += 4) {
        int32_t sums[4] = {layer->bias[o], layer->bias[o + 1], layer->bias[o + 2], layer->bias[o + 3]};
        lab_dot_1x4(input, weights, inputs, sums);
        weights += 4 * inputs;
        for (int32_t i = 0; i < 4; i++) {
            output[o + i] = finish(layer, sums[i], o + i);
        }
    }
    for (; o < layer->outputs; o++) {
        output[o] = finish(layer, lab_dot(input, weights, inputs, layer->bias[o]), o);
        weights += inputs;
    }
}
