/* What the weight gradients of depthwise convolutions with int8 inputs share: as lab_f32_depthwise_taps, but the input
 * is int8 and counts as input - zero_point (its scale is left to the sink). kernel_width <= LAB_Q_DEPTHWISE_TAPS.
 * Stack: 3 KiB. */
#ifndef LAB_Q_DEPTHWISE_TAPS_H
#define LAB_Q_DEPTHWISE_TAPS_H

#include "lab_f32_conv2d.h"
#include "lab_f32_sink.h"

#define LAB_Q_DEPTHWISE_TAPS 16

void lab_q_depthwise_taps(const lab_f32_conv2d_t *layer, int32_t first_channel, int32_t channel_count,
                          int32_t target_channels, int32_t zero_point, const int8_t *input,
                          const float *output_gradient, lab_f32_sink_t sink, const void *context);

#endif
