#include "lab_f32_max_pool2d_gradient.h"

void lab_f32_max_pool2d_gradient(const lab_f32_max_pool2d_t *layer, const float *gradient, const void *places,
                                 float *output)
{
    const int32_t channels = layer->channels, width = layer->input_width, size = layer->input_height * width * channels;
    const int narrow = layer->kernel_height * layer->kernel_width <= 256;
    const uint8_t *bytes = places;
    const int32_t *words = narrow ? 0 : places;
    for (int32_t b = 0; b < layer->batch; b++, output += size) {
        for (int32_t i = 0; i < size; i++)
            output[i] = 0.0f;
        for (int32_t y = 0; y < layer->output_height; y++) {
            for (int32_t x = 0; x < layer->output_width; x++) {
                for (int32_t c = 0; c < channels; c++) {
                    const int32_t place = narrow ? *bytes++ : *words++;
                    const int32_t i = place / layer->kernel_width, j = place % layer->kernel_width;
                    const int32_t row = y * layer->stride_height - layer->pad_top + i * layer->dilation_height;
                    const int32_t column = x * layer->stride_width - layer->pad_left + j * layer->dilation_width;
                    output[(row * width + column) * channels + c] += *gradient++;
                }
            }
        }
    }
}
