#include "lab_general_conv2d.h"

#include "lab_rescale.h"

/* Sum over the window whose top left corner is (top, left), without the bias. */
static int32_t window_sum(const lab_general_conv2d_t *layer, const int8_t *input, const int8_t *weights, int32_t top,
                          int32_t left, int32_t depth)
{
    int32_t sum = 0;
    for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
        const int32_t y = top + ky * layer->dilation_height;
        for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
            const int32_t x = left + kx * layer->dilation_width;
            if (y >= 0 && y < layer->input_height && x >= 0 && x < layer->input_width) {
                const int8_t *pixel = input + (y * layer->input_width + x) * layer->input_channels;
                for (int32_t c = 0; c < depth; c++) {
                    sum += (pixel[c] - layer->input_zero_point) * weights[c];
                }
            }
            weights += depth;
        }
    }
    return sum;
}

void lab_general_conv2d(const lab_general_conv2d_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t depth = layer->input_channels / layer->groups;
    const int32_t per_group = layer->output_channels / layer->groups;
    const int32_t weights_per_output = layer->kernel_height * layer->kernel_width * depth;
    for (int32_t oy = 0; oy < layer->output_height; oy++) {
        const int32_t top = oy * layer->stride_height - layer->pad_top;
        for (int32_t ox = 0; ox < layer->output_width; ox++) {
            const int32_t left = ox * layer->stride_width - layer->pad_left;
            for (int32_t o = 0; o < layer->output_channels; o++) {
                const int8_t *weights = layer->weights + o * weights_per_output;
                const int8_t *channels = input + (o / per_group) * depth;
                const int32_t sum = layer->bias[o] + window_sum(layer, channels, weights, top, left, depth);
                const int32_t scaled = lab_rescale_value(sum, layer->multiplier[o], layer->shift[o]);
                *output++ = lab_rescale_int8(scaled, layer->output_zero_point, layer->output_minimum,
                                             layer->output_maximum);
            }
        }
    }
}
