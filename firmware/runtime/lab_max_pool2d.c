#include "lab_max_pool2d.h"

#include <string.h>

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

void lab_max_pool2d(const lab_max_pool2d_t *layer, const int8_t *input, int8_t *output)
{
    const int32_t channels = layer->channels;
    for (int32_t oy = 0; oy < layer->output_height; oy++) {
        const int32_t top = larger(oy * layer->stride_height - layer->pad_top, 0);
        const int32_t bottom =
            smaller(oy * layer->stride_height - layer->pad_top + layer->kernel_height, layer->input_height);
        for (int32_t ox = 0; ox < layer->output_width; ox++) {
            const int32_t left = larger(ox * layer->stride_width - layer->pad_left, 0);
            const int32_t right =
                smaller(ox * layer->stride_width - layer->pad_left + layer->kernel_width, layer->input_width);
            memset(output, INT8_MIN, (size_t)channels);
            for (int32_t y = top; y < bottom; y++) {
                for (int32_t x = left; x < right; x++) {
                    const int8_t *pixel = input + (y * layer->input_width + x) * channels;
                    for (int32_t c = 0; c < channels; c++) {
                        if (pixel[c] > output[c]) {
                            output[c] = pixel[c];
                        }
                    }
                }
            }
            output += channels;
        }
    }
}
