/* What a depthwise convolution's forward pass and its input gradient share: every pixel of the target gathers through the
 * kernel's taps from the source, channel by channel. */
#ifndef LAB_F32_DEPTHWISE_GATHER_H
#define LAB_F32_DEPTHWISE_GATHER_H

#include "lab_f32_axis.h"

typedef struct {
    lab_f32_axis_t y, x;
    int32_t forward;                         /* 1: forward_taps, 0: gradient_taps */
    int32_t channels;                        /* computed */
    int32_t pixel_channels, weight_channels; /* between pixels of source and target, between taps of the weights */
    const float *bias;                       /* added to; a null pointer for zeros */
    int32_t adds;                            /* 1: to what the target holds, instead */
} lab_f32_depthwise_gather_t;

void lab_f32_depthwise_gather(const lab_f32_depthwise_gather_t *gather, const float *source, const float *weights,
                              float *target);

#endif
