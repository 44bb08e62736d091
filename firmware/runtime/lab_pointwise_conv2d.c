#include "lab_pointwise_conv2d.h"

#include "lab_dense.h"

void lab_pointwise_conv2d(const lab_pointwise_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const lab_dense_t dense = {
        .weights = layer->weights,
        .bias = layer->bias,
        .multiplier = layer->multiplier,
        .shift = layer->shift,
        .inputs = layer->input_channels,
        .outputs = layer->output_channels,
        .output_zero_point = layer->output_zero_point,
        .output_minimum = layer->output_minimum,
        .output_maximum = layer->output_maximum,
    };
    const int32_t fast = lab_dense_fast(&dense);
    const int32_t step = layer->stride_width * layer->input_channels;
    const int32_t row_bytes = layer->input_width * layer->input_channels;
    const int8_t *pixels[4]; /* that wait for more, also across rows */
    int32_t waiting = 0;

    for (int32_t y = 0; y < layer->output_height; y++) {
        const int8_t *pixel = input + y * layer->stride_height * row_bytes;
        for (int32_t x = 0; x < layer->output_width; x++) {
            pixels[waiting++] = pixel;
            pixel += step;
            if (waiting == 4) {
                lab_dense_four_rows(&dense, fast, pixels, output, scratch);
                output += 4 * dense.outputs;
                waiting = 0;
            }
        }
    }
    for (int32_t i = 0; i < waiting; i++) {
        lab_dense_row(&dense, pixels[i], output, scratch);
        output += dense.outputs;
    }
}
