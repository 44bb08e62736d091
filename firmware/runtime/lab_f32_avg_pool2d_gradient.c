#include "lab_f32_avg_pool2d_gradient.h"

#include "lab_f32_pool_window.h"

void lab_f32_avg_pool2d_gradient(const lab_f32_avg_pool2d_t *layer, const float *gradient, float *output)
{
    const int32_t channels = layer->channels, width = layer->input_width, size = layer->input_height * width * channels;
    for (int32_t b = 0; b < layer->batch; b++, output += size) {
        for (int32_t i = 0; i < size; i++)
            output[i] = 0.0f;
        for (int32_t y = 0; y < layer->output_height; y++) {
            const lab_pool_window_t rows = lab_pool_window(layer, y, 1);
            for (int32_t x = 0; x < layer->output_width; x++, gradient += channels) {
                const lab_pool_window_t columns = lab_pool_window(layer, x, 0);
                const float divisor = lab_pool_divisor(layer, rows, columns);
                for (int32_t row = rows.first; row < rows.last; row++) {
                    for (int32_t column = columns.first; column < columns.last; column++) {
                        float *pixel = output + (row * width + column) * channels;
                        for (int32_t c = 0; c < channels; c++)
                            pixel[c] += gradient[c] / divisor;
                    }
                }
            }
        }
    }
}
