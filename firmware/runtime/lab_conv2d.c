#include "lab_conv2d.h"

#include <string.h>

#include "lab_dense.h"

/* Copy the receptive field whose top left corner is (top, left); what lies outside the input is the zero point. */
static void gather(const lab_conv2d_t *layer, const int8_t *input, int32_t top, int32_t left, int8_t *field)
{
    const int32_t channels = layer->input_channels;
    const int32_t width = layer->kernel_width;
    /* Columns [first, last) of the kernel lie inside the input. */
    const int32_t first = left < 0 ? (-left < width ? -left : width) : 0;
    const int32_t room = layer->input_width - left;
    const int32_t end = room < width ? room : width;
    const int32_t last = end > first ? end : first;

    for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
        const int32_t y = top + ky;
        if (y < 0 || y >= layer->input_height || last == first) {
            memset(field, layer->input_zero_point, (size_t)(width * channels));
        } else {
            const int8_t *row = input + (y * layer->input_width + left + first) * channels;
            memset(field, layer->input_zero_point, (size_t)(first * channels));
            memcpy(field + first * channels, row, (size_t)((last - first) * channels));
            memset(field + last * channels, layer->input_zero_point, (size_t)((width - last) * channels));
        }
        field += width * channels;
    }
}

void lab_conv2d(const lab_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const lab_dense_t dense = {
        .weights = layer->weights,
        .bias = layer->bias,
        .multiplier = layer->multiplier,
        .shift = layer->shift,
        .inputs = layer->kernel_height * layer->kernel_width * layer->input_channels,
        .outputs = layer->output_channels,
        .output_zero_point = layer->output_zero_point,
        .output_minimum = layer->output_minimum,
        .output_maximum = layer->output_maximum,
    };
    int8_t *const fields[2] = {scratch, scratch + dense.inputs};
    int8_t *waiting_output = 0; /* of the first field, while it waits for a second one */

    for (int32_t y = 0; y < layer->output_height; y++) {
        const int32_t top = y * layer->stride_height - layer->pad_top;
        for (int32_t x = 0; x < layer->output_width; x++) {
            const int32_t left = x * layer->stride_width - layer->pad_left;
            gather(layer, input, top, left, fields[waiting_output != 0]);
            if (waiting_output != 0) {
                lab_dense_two_rows(&dense, fields[0], fields[1], waiting_output, output);
                waiting_output = 0;
            } else {
                waiting_output = output;
            }
            output += dense.outputs;
        }
    }
    if (waiting_output != 0) {
        lab_dense_row(&dense, fields[0], waiting_output);
    }
}
