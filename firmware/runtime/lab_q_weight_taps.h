/* What the weight gradients of convolutions with int8 inputs share: as lab_f32_weight_taps, but the input is int8 and
 * counts as input - zero_point (its scale is left to the sink). Stack: 2 KiB. */
#ifndef LAB_Q_WEIGHT_TAPS_H
#define LAB_Q_WEIGHT_TAPS_H

#include "lab_f32_weight_taps.h"

void lab_q_weight_taps(const lab_f32_conv2d_t *layer, const lab_f32_weight_slice_t *slice, int32_t zero_point,
                       const int8_t *input, const float *output_gradient, lab_f32_sink_t sink, const void *context);

#endif
