#include "lab_depthwise_conv2d.h"

#include <string.h>

#include "lab_requantize.h"

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

#if defined(__ARM_FEATURE_MVE)
#include "arm/depthwise_mve.h"
#elif defined(__ARM_FEATURE_DSP)
#include "arm/depthwise_dsp.h"
#else
/* No channels without either extension. */
static int32_t convolve_fast(const lab_depthwise_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    (void)layer, (void)input, (void)output, (void)scratch;
    return 0;
}
#endif

/* The channels from `c` on, four at a time: a tap's pointer is loaded once for four multiply-accumulates. */
static void convolve_pixel(const lab_depthwise_conv2d_t *layer, const lab_requantization_t how,
                           const int8_t *const *taps, int32_t tap_count, int32_t c, int8_t *output)
{
    const int32_t channels = layer->channels;
    const int32_t *const bias = layer->bias;
    const int8_t *const weights = layer->weights;
    const int8_t *const *const end = taps + tap_count;
    for (; c + 3 < channels; c += 4) {
        const int8_t *w = weights + c;
        int32_t sums[4] = {bias[c], bias[c + 1], bias[c + 2], bias[c + 3]};
        for (const int8_t *const *tap = taps; tap != end; tap++) {
            const int8_t *x = *tap + c;
            sums[0] += x[0] * w[0];
            sums[1] += x[1] * w[1];
            sums[2] += x[2] * w[2];
            sums[3] += x[3] * w[3];
            w += channels;
        }
        for (int32_t i = 0; i < 4; i++) {
            output[c + i] = lab_requantize_int8(how, sums[i], c + i);
        }
    }
    for (; c < channels; c++) {
        int32_t sum = bias[c];
        for (int32_t tap = 0; tap < tap_count; tap++) {
            sum += taps[tap][c] * weights[tap * channels + c];
        }
        output[c] = lab_requantize_int8(how, sum, c);
    }
}

void lab_depthwise_conv2d(const lab_depthwise_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const lab_requantization_t how = {
        .multiplier = layer->multiplier,
        .shift = layer->shift,
        .zero_point = layer->output_zero_point,
        .minimum = layer->output_minimum,
        .maximum = layer->output_maximum,
    };
    const int8_t *taps[LAB_DEPTHWISE_TAPS];
    const int32_t tap_count = layer->kernel_height * layer->kernel_width;

    const int32_t done = convolve_fast(layer, input, output, scratch); /* channels */
    if (done == layer->channels) {
        return;
    }
    memset(scratch, layer->input_zero_point, (size_t)layer->channels);
    for (int32_t y = 0; y < layer->output_height; y++) {
        const int32_t top = y * layer->stride_height - layer->pad_top;
        for (int32_t x = 0; x < layer->output_width; x++) {
            find_taps(layer, input, top, x * layer->stride_width - layer->pad_left, scratch, taps);
            convolve_pixel(layer, how, taps, tap_count, done, output);
            output += layer->channels;
        }
    }
}
