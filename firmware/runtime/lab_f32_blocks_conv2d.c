#include "lab_f32_blocks_conv2d.h"

#include <string.h>

#include "lab_f32_arithmetic.h"
#include "lab_f32_blocks.h"
#include "lab_f32_blocks_taps.h"

static void add_block(const lab_f32_tap_t *tap, const float *input, const float *weights, float *output)
{
    const float w0 = weights[0], w1 = weights[1], w2 = weights[2], w3 = weights[3];
    for (int32_t row = 0; row < tap->rows; row++) {
        const float *x = input + row * tap->input_row;
        float *y = output + row * tap->output_row;
        for (int32_t column = 0; column < tap->columns; column++) {
            float sum = *y;
            sum = LAB_MULTIPLY_ADD(w0, x[0], sum);
            sum = LAB_MULTIPLY_ADD(w1, x[1], sum);
            sum = LAB_MULTIPLY_ADD(w2, x[2], sum);
            *y = LAB_MULTIPLY_ADD(w3, x[3], sum);
            x += tap->input_column;
            y += tap->output_column;
        }
    }
}

static void finish(const lab_f32_conv2d_t *layer, const float *bias, float *output)
{
    for (int32_t pixel = 0; pixel < layer->output_height * layer->output_width; pixel++) {
        for (int32_t channel = 0; channel < layer->output_channels; channel++) {
            const float sum = output[channel] + (bias != 0 ? bias[channel] : 0.0f);
            output[channel] = lab_f32_clamp(sum, layer->minimum, layer->maximum);
        }
        output += layer->output_channels;
    }
}

static void of_sample(const lab_f32_blocks_conv2d_t *sparse, const float *input, const float *weights,
                      const uint8_t *blocks, const float *bias, float *output)
{
    const lab_f32_conv2d_t *const layer = &sparse->layer;
    const int32_t pixels = layer->output_height * layer->output_width;
    memset(output, 0, (size_t)pixels * (size_t)layer->output_channels * sizeof *output);
    for (int32_t channel = 0; channel < layer->output_channels; channel++) {
        for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
            for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
                const lab_f32_tap_t tap = lab_f32_tap_of(layer, ky, kx);
                for (int32_t k = 0; tap.rows * tap.columns > 0 && k < sparse->kept; k++)
                    add_block(&tap, input + tap.input + LAB_F32_BLOCK * (int32_t)blocks[k], weights + LAB_F32_BLOCK * k,
                              output + tap.output + channel);
                weights += LAB_F32_BLOCK * sparse->kept;
                blocks += sparse->kept;
            }
        }
    }
    finish(layer, bias, output);
}

void lab_f32_blocks_conv2d(const lab_f32_blocks_conv2d_t *sparse, const float *input, const float *weights,
                           const uint8_t *blocks, const float *bias, float *output)
{
    const lab_f32_conv2d_t *const layer = &sparse->layer;
    const int32_t taken = layer->input_height * layer->input_width * layer->input_channels;
    const int32_t made = layer->output_height * layer->output_width * layer->output_channels;
    for (int32_t sample = 0; sample < layer->batch; sample++)
        of_sample(sparse, input + sample * taken, weights, blocks, bias, output + sample * made);
}
