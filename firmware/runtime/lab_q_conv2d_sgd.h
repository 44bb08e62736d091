/* Update of a convolution's int8 weights from a stored gradient; see lab_q_update.h.
 *
 * weights are packed rows (lab_dense.h); gradient [output_count][kernel_height][kernel_width][channel_count / groups]
 * is that of the real weights of the slice; the others are left alone. With groups the slice must be everything. What
 * is folded into the bias moves along. No scratch. */
#ifndef LAB_Q_CONV2D_SGD_H
#define LAB_Q_CONV2D_SGD_H

#include "lab_f32_conv2d.h"
#include "lab_training.h"

typedef struct {
    lab_f32_conv2d_t layer;
    int32_t first_channel, channel_count;
    int32_t first_output, output_count;
    const float *weight_scale; /* [output_channels] */
    int32_t bias_offset;
    float rate_scale;
} lab_q_conv2d_sgd_t;

void lab_q_conv2d_sgd(const lab_q_conv2d_sgd_t *sgd, int32_t *weights, const float *gradient, int32_t *bias,
                      lab_training_state_t *state);

#endif
