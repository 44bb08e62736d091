/* What the weight gradients of convolutions share: for every tap of the kernel a matrix product over the output's
 * pixels. */
#ifndef LAB_F32_WEIGHT_TAPS_H
#define LAB_F32_WEIGHT_TAPS_H

#include "lab_f32_conv2d.h"
#include "lab_f32_sink.h"

/* The part of the weights that is wanted. */
typedef struct {
    int32_t channel_count; /* channels the input holds, with groups all of them */
    int32_t first_output, output_count; /* with groups, all of them */
    int32_t target_channels; /* channels between the taps of the target */
} lab_f32_weight_slice_t;

/* Hands the gradient [output][kernel row][kernel column][channel] to the sink; the target starts at the slice's first
 * weight and has kernel_height * kernel_width * target_channels elements per output. Rows are outputs, from 0. */
void lab_f32_weight_taps(const lab_f32_conv2d_t *layer, const lab_f32_weight_slice_t *slice, const float *input,
                         const float *output_gradient, lab_f32_sink_t sink, const void *context);

#endif
