#include "lab_pad.h"

#include <string.h>

void lab_pad(const lab_pad_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t row_bytes = layer->input_width * layer->input_channels;
    const int32_t output_row_bytes = layer->output_width * layer->input_channels;
    memset(output, layer->zero_point, (size_t)(layer->output_height * output_row_bytes));
    output += layer->pad_top * output_row_bytes + layer->pad_left * layer->input_channels;
    for (int32_t y = 0; y < layer->input_height; y++) {
        memcpy(output, input, (size_t)row_bytes);
        input += row_bytes;
        output += output_row_bytes;
    }
}
