/* What the weight gradients of depthwise convolutions share: for every tap a sum over the output's pixels, channel by
 * channel. */
#ifndef LAB_F32_DEPTHWISE_TAPS_H
#define LAB_F32_DEPTHWISE_TAPS_H

#include "lab_f32_conv2d.h"
#include "lab_f32_sink.h"

/* Hands the gradient of channels [first_channel, + channel_count) to the sink; `input` holds only these channels. The
 * target starts at the slice's first weight and has target_channels elements per tap. Columns are channels, from 0. */
void lab_f32_depthwise_taps(const lab_f32_conv2d_t *layer, int32_t first_channel, int32_t channel_count,
                            int32_t target_channels, const float *input, const float *output_gradient,
                            lab_f32_sink_t sink, const void *context);

#endif
