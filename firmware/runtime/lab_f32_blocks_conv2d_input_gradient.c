#include "lab_f32_blocks_conv2d_input_gradient.h"

#include <string.h>

#include "lab_f32_arithmetic.h"
#include "lab_f32_blocks.h"
#include "lab_f32_blocks_taps.h"

static void spread_block(const lab_f32_tap_t *tap, const float *gradient, const float *weights, float *output)
{
    for (int32_t row = 0; row < tap->rows; row++) {
        const float *g = gradient + row * tap->output_row;
        float *x = output + row * tap->input_row;
        for (int32_t column = 0; column < tap->columns; column++) {
            x[0] = LAB_MULTIPLY_ADD(*g, weights[0], x[0]);
            x[1] = LAB_MULTIPLY_ADD(*g, weights[1], x[1]);
            x[2] = LAB_MULTIPLY_ADD(*g, weights[2], x[2]);
            x[3] = LAB_MULTIPLY_ADD(*g, weights[3], x[3]);
            g += tap->output_column;
            x += tap->input_column;
        }
    }
}

static void of_sample(const lab_f32_blocks_conv2d_t *sparse, const float *gradient, const float *weights,
                      const uint8_t *blocks, float *output)
{
    const lab_f32_conv2d_t *const layer = &sparse->layer;
    const int32_t pixels = layer->input_height * layer->input_width;
    memset(output, 0, (size_t)pixels * (size_t)layer->input_channels * sizeof *output);
    for (int32_t channel = 0; channel < layer->output_channels; channel++) {
        for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
            for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
                const lab_f32_tap_t tap = lab_f32_tap_of(layer, ky, kx);
                for (int32_t k = 0; tap.rows * tap.columns > 0 && k < sparse->kept; k++)
                    spread_block(&tap, gradient + tap.output + channel, weights + LAB_F32_BLOCK * k,
                                 output + tap.input + LAB_F32_BLOCK * (int32_t)blocks[k]);
                weights += LAB_F32_BLOCK * sparse->kept;
                blocks += sparse->kept;
            }
        }
    }
}

void lab_f32_blocks_conv2d_input_gradient(const lab_f32_blocks_conv2d_t *sparse, const float *gradient,
                                          const float *weights, const uint8_t *blocks, float *output)
{
    const lab_f32_conv2d_t *const layer = &sparse->layer;
    const int32_t taken = layer->input_height * layer->input_width * layer->input_channels;
    const int32_t made = layer->output_height * layer->output_width * layer->output_channels;
    for (int32_t sample = 0; sample < layer->batch; sample++)
        of_sample(sparse, gradient + sample * made, weights, blocks, output + sample * taken);
}
