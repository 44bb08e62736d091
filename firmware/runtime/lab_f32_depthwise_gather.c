#include "lab_f32_depthwise_gather.h"

#include "lab_f32_channels.h"
#include "lab_f32_zeros.h"

static lab_f32_taps_t taps_at(const lab_f32_depthwise_gather_t *gather, const lab_f32_axis_t *axis, int32_t position)
{
    return gather->forward ? lab_f32_forward_taps(axis, position) : lab_f32_gradient_taps(axis, position);
}

static void gather_pixel(const lab_f32_depthwise_gather_t *gather, const lab_f32_channels_t *walk, const float *source,
                         const float *weights, float *target)
{
    for (int32_t channel = 0; channel < gather->channels; channel += LAB_F32_CHANNELS) {
        const int32_t left = gather->channels - channel;
        const float *start = lab_f32_zeros;
        if (gather->adds) {
            start = target + channel;
        } else if (gather->bias != 0) {
            start = gather->bias + channel;
        }
        lab_f32_channels(walk, source + channel, weights + channel, left < LAB_F32_CHANNELS ? left : LAB_F32_CHANNELS,
                         start, target + channel);
    }
}

void lab_f32_depthwise_gather(const lab_f32_depthwise_gather_t *gather, const float *source, const float *weights,
                              float *target)
{
    const int32_t pixel = gather->pixel_channels;
    for (int32_t at_y = 0; at_y < gather->y.targets; at_y++) {
        const lab_f32_taps_t y = taps_at(gather, &gather->y, at_y);
        for (int32_t at_x = 0; at_x < gather->x.targets; at_x++) {
            const lab_f32_taps_t x = taps_at(gather, &gather->x, at_x);
            const lab_f32_channels_t walk = {
                .outer = x.count > 0 ? y.count : 0,
                .inner = x.count,
                .a_outer = y.source_step * gather->x.sources * pixel,
                .a_inner = x.source_step * pixel,
                .b_outer = y.step * gather->x.kernel * gather->weight_channels,
                .b_inner = x.step * gather->weight_channels,
            };
            gather_pixel(gather, &walk, source + (y.source * gather->x.sources + x.source) * pixel,
                         weights + (y.first * gather->x.kernel + x.first) * gather->weight_channels, target);
            target += pixel;
        }
    }
}
