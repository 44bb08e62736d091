#include "lab_depthwise_conv2d.h"

#include <string.h>

#include "lab_requantize.h"

static int8_t finish(const lab_depthwise_conv2d_t *layer, int32_t channel, int32_t sum)
{
    const int32_t scaled = lab_requantize(sum, layer->multiplier[channel], layer->shift[channel]);
    return lab_clamp_int8(scaled + layer->output_zero_point, layer->output_minimum, layer->output_maximum);
}

/* Point each tap of the window at (top, left) to its input pixel, or to `outside`. */
static void find_taps(const lab_depthwise_conv2d_t *layer, const int8_t *input, int32_t top, int32_t left,
                      const int8_t *outside, const int8_t **taps)
{
    for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
        const int32_t y = top + ky;
        for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
            const int32_t x = left + kx;
            const int inside = y >= 0 && y < layer->input_height && x >= 0 && x < layer->input_width;
            *taps++ = inside ? input + (y * layer->input_width + x) * layer->channels : outside;
        }
    }
}

/* Four channels at a time: a tap's pointer is loaded once for four multiply-accumulates. */
static void convolve_pixel(const lab_depthwise_conv2d_t *layer, const int8_t *const *taps, int32_t tap_count,
                           int8_t *output)
{
    const int32_t channels = layer->channels;
    int32_t c = 0;
    for (; c + 3 < channels; c += 4) {
        const int8_t *w = layer->weights + c;
        int32_t sum0 = layer->bias[c];
        int32_t sum1 = layer->bias[c + 1];
        int32_t sum2 = layer->bias[c + 2];
        int32_t sum3 = layer->bias[c + 3];
        for (int32_t tap = 0; tap < tap_count; tap++) {
            const int8_t *x = taps[tap] + c;
            sum0 += x[0] * w[0];
            sum1 += x[1] * w[1];
            sum2 += x[2] * w[2];
            sum3 += x[3] * w[3];
            w += channels;
        }
        output[c] = finish(layer, c, sum0);
        output[c + 1] = finish(layer, c + 1, sum1);
        output[c + 2] = finish(layer, c + 2, sum2);
        output[c + 3] = finish(layer, c + 3, sum3);
    }
    for (; c < channels; c++) {
        int32_t sum = layer->bias[c];
        for (int32_t tap = 0; tap < tap_count; tap++) {
            sum += taps[tap][c] * layer->weights[tap * channels + c];
        }
        output[c] = finish(layer, c, sum);
    }
}

void lab_depthwise_conv2d(const lab_depthwise_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const int8_t *taps[LAB_DEPTHWISE_TAPS];
    const int32_t tap_count = layer->kernel_height * layer->kernel_width;

    if (scratch != 0) {
        memset(scratch, layer->input_zero_point, (size_t)layer->channels);
    }
    for (int32_t y = 0; y < layer->output_height; y++) {
        const int32_t top = y * layer->stride_height - layer->pad_top;
        for (int32_t x = 0; x < layer->output_width; x++) {
            find_taps(layer, input, top, x * layer->stride_width - layer->pad_left, scratch, taps);
            convolve_pixel(layer, taps, tap_count, output);
            output += layer->channels;
        }
    }
}
