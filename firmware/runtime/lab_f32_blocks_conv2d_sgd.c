#include "lab_f32_blocks_conv2d_sgd.h"

#include "lab_f32_arithmetic.h"
#include "lab_f32_blocks_taps.h"

static float size_of(const lab_f32_conv2d_t *layer, const float *gradient)
{
    float sum = 0.0f;
    for (int32_t pixel = 0; pixel < layer->batch * layer->output_height * layer->output_width; pixel++)
        sum += fabsf(gradient[pixel * layer->output_channels]);
    return sum;
}

static void add_products(const lab_f32_tap_t *tap, const float *gradient, const float *input, float *sum)
{
    for (int32_t row = 0; row < tap->rows; row++) {
        const float *g = gradient + row * tap->output_row;
        const float *x = input + row * tap->input_row;
        for (int32_t column = 0; column < tap->columns; column++) {
            sum[0] = LAB_MULTIPLY_ADD(*g, x[0], sum[0]);
            sum[1] = LAB_MULTIPLY_ADD(*g, x[1], sum[1]);
            sum[2] = LAB_MULTIPLY_ADD(*g, x[2], sum[2]);
            sum[3] = LAB_MULTIPLY_ADD(*g, x[3], sum[3]);
            g += tap->output_column;
            x += tap->input_column;
        }
    }
}

static void update_block(const lab_f32_conv2d_t *layer, const lab_f32_tap_t *tap, const float *gradient,
                         const float *input, float rate, float *weights)
{
    float sum[LAB_F32_BLOCK] = {0.0f, 0.0f, 0.0f, 0.0f};
    const int32_t taken = layer->input_height * layer->input_width * layer->input_channels;
    const int32_t made = layer->output_height * layer->output_width * layer->output_channels;
    for (int32_t sample = 0; sample < layer->batch; sample++)
        add_products(tap, gradient + sample * made, input + sample * taken, sum);
    for (int32_t n = 0; n < LAB_F32_BLOCK; n++)
        weights[n] = LAB_MULTIPLY_ADD(-rate, sum[n], weights[n]);
}

static void update_channel(const lab_f32_blocks_conv2d_t *sparse, int32_t awake, const float *gradient,
                           const float *input, float rate, float *weights, const uint8_t *blocks)
{
    const lab_f32_conv2d_t *const layer = &sparse->layer;
    for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
        for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
            const lab_f32_tap_t tap = lab_f32_tap_of(layer, ky, kx);
            for (int32_t k = 0; tap.rows * tap.columns > 0 && k < awake; k++)
                update_block(layer, &tap, gradient + tap.output,
                             input + tap.input + LAB_F32_BLOCK * (int32_t)blocks[k], rate, weights + LAB_F32_BLOCK * k);
            weights += LAB_F32_BLOCK * sparse->kept;
            blocks += sparse->kept;
        }
    }
}

void lab_f32_blocks_conv2d_sgd(const lab_f32_blocks_conv2d_sgd_t *sgd, const float *gradient, const float *input,
                               float *weights, uint8_t *blocks, float *threshold, lab_training_state_t *state)
{
    const lab_f32_blocks_conv2d_t *const sparse = &sgd->sparse;
    const lab_f32_conv2d_t *const layer = &sparse->layer;
    const int32_t taps = layer->kernel_height * layer->kernel_width;
    const float rate = state->learning_rate * sgd->rate_scale;
    const int32_t awake = lab_f32_blocks_awake(&sgd->renewal, sparse->kept, state);
    int32_t changed = 0;
    for (int32_t channel = 0; channel < layer->output_channels; channel++) {
        const int32_t first = channel * taps * sparse->kept;
        /* Also true for what is not a number, which the next forward has to show. */
        if (!(size_of(layer, gradient + channel) <= *threshold)) {
            update_channel(sparse, awake, gradient + channel, input, rate, weights + LAB_F32_BLOCK * first,
                           blocks + first);
            changed++;
        }
    }
    if (sgd->changed < layer->output_channels)
        lab_f32_blocks_follow(threshold, changed, sgd->changed);
    lab_f32_blocks_renew(&sgd->renewal, layer->output_channels * taps, sparse->kept,
                         layer->input_channels / LAB_F32_BLOCK, weights, blocks, state);
}
