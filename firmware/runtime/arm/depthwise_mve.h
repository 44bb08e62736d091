/* Depthwise convolution with Helium, eight channels at a time. Included by lab_depthwise_conv2d.c alone. */
#include "requantize_mve.h"

/* Every other channel of eight: the even ones, or the odd ones if `first` is 1. */
static inline void finish_four(const lab_depthwise_conv2d_t *layer, int32x4_t sums, int32x4_t multiplier, int32_t channel,
                               uint32_t first, int8_t *output)
{
    const uint32x4_t places = vidupq_n_u32(first, 2);
    const int32x4_t shift = (int32x4_t)vldrbq_gather_offset_u32(layer->shift + channel, places);
    const int32x4_t scaled = lab_mve_requantize(sums, multiplier, shift, layer->output_zero_point,
                                                layer->output_minimum, layer->output_maximum);
    vstrbq_scatter_offset_s32(output + channel, places, scaled);
}

static void convolve_eight(const lab_depthwise_conv2d_t *layer, const int8_t *const *taps, int32_t tap_count,
                           int32_t channel, int8_t *output)
{
    const int32x4x2_t bias = vld2q_s32(layer->bias + channel);
    const int32x4x2_t multiplier = vld2q_s32(layer->multiplier + channel);
    const int8_t *weights = layer->weights + channel;
    int32x4_t even = bias.val[0];
    int32x4_t odd = bias.val[1];
    for (int32_t tap = 0; tap < tap_count; tap++) {
        const int16x8_t x = vldrbq_s16(taps[tap] + channel);
        const int16x8_t w = vldrbq_s16(weights);
        even = vaddq_s32(even, vmullbq_int_s16(x, w));
        odd = vaddq_s32(odd, vmulltq_int_s16(x, w));
        weights += layer->channels;
    }
    finish_four(layer, even, multiplier.val[0], channel, 0, output);
    finish_four(layer, odd, multiplier.val[1], channel, 1, output);
}

/* The channels up to the last multiple of eight; returns how many. */
static int32_t convolve_fast(const lab_depthwise_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const int8_t *taps[LAB_DEPTHWISE_TAPS];
    const int32_t tap_count = layer->kernel_height * layer->kernel_width;
    const int32_t count = layer->channels & ~7;
    const int32_t step = layer->stride_width * layer->channels;
    memset(scratch, layer->input_zero_point, (size_t)layer->channels);
    for (int32_t y = 0; count != 0 && y < layer->output_height; y++) {
        const int32_t top = y * layer->stride_height - layer->pad_top;
        const int rows_inside = top >= 0 && top + layer->kernel_height <= layer->input_height;
        int before_inside = 0;
        for (int32_t x = 0; x < layer->output_width; x++) {
            const int32_t left = x * layer->stride_width - layer->pad_left;
            const int inside = rows_inside && left >= 0 && left + layer->kernel_width <= layer->input_width;
            if (inside && before_inside) {
                for (int32_t tap = 0; tap < tap_count; tap++) {
                    taps[tap] += step;
                }
            } else {
                find_taps(layer, input, top, left, scratch, taps);
            }
            before_inside = inside;
            for (int32_t channel = 0; channel < count; channel += 8) {
                convolve_eight(layer, taps, tap_count, channel, output);
            }
            output += layer->channels;
        }
    }
    return count;
}
