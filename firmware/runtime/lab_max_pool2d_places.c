#include "lab_max_pool2d_places.h"

static void scan_pixel(int32_t channels, const int8_t *pixel, int32_t place, int first, int8_t *output, uint8_t *places)
{
    for (int32_t c = 0; c < channels; c++) {
        if (first || pixel[c] > output[c]) {
            output[c] = pixel[c];
            places[c] = (uint8_t)place;
        }
    }
}

void lab_max_pool2d_places(const lab_max_pool2d_t *layer, const int8_t *input, int8_t *output, uint8_t *places)
{
    const int32_t channels = layer->channels;
    for (int32_t oy = 0; oy < layer->output_height; oy++) {
        for (int32_t ox = 0; ox < layer->output_width; ox++) {
            int first = 1;
            for (int32_t i = 0; i < layer->kernel_height; i++) {
                const int32_t y = oy * layer->stride_height - layer->pad_top + i;
                if (y < 0 || y >= layer->input_height) {
                    continue;
                }
                for (int32_t j = 0; j < layer->kernel_width; j++) {
                    const int32_t x = ox * layer->stride_width - layer->pad_left + j;
                    if (x < 0 || x >= layer->input_width) {
                        continue;
                    }
                    const int8_t *pixel = input + (y * layer->input_width + x) * channels;
                    scan_pixel(channels, pixel, i * layer->kernel_width + j, first, output, places);
                    first = 0;
                }
            }
            output += channels;
            places += channels;
        }
    }
}
