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

void lab_fully_connected(const lab_fully_connected_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const lab_row_t row = lab_row(input, layer->inputs, scratch);
    const int32_t words = lab_dense_padded(layer->inputs) / 2;
    const int32_t *weights = layer->weights;
    for (int32_t o = 0; o < layer->outputs; o += 2) {
        const int32_t two = o + 1 < layer->outputs;
        int32_t sums[2] = {layer->bias[o], two ? layer->bias[o + 1] : 0};
        lab_row_dot(&row, weights, sums);
        weights += words;
        output[o] = finish(layer, sums[0], o);
        if (two) {
            output[o + 1] = finish(layer, sums[1], o + 1);
        }
    }
}
