#include "lab_pointwise_conv2d.h"

#include "lab_dense.h"

void lab_pointwise_conv2d(const lab_pointwise_conv2d_t *layer, const int8_t *input, int8_t *output)
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
    const int32_t step = layer->stride_width * layer->input_channels;
    const int32_t row_bytes = layer->input_width * layer->input_channels;
    const int8_t *waiting = 0; /* a pixel that waits for a second one, also across rows */
    int8_t *waiting_output = 0;

    for (int32_t y = 0; y < layer->output_height; y++) {
        const int8_t *pixel = input + y * layer->stride_height * row_bytes;
        for (int32_t x = 0; x < layer->output_width; x++) {
            if (waiting != 0) {
                lab_dense_two_rows(&dense, waiting, pixel, waiting_output, output);
                waiting = 0;
            } else {
                waiting = pixel;
                waiting_output = output;
            }
            pixel += step;
            output += dense.outputs;
        }
    }
    if (waiting != 0) {
        lab_dense_row(&dense, waiting, waiting_output);
    }
}
