/* SGD on the weights of lab_f32_blocks_conv2d, with gradient and weight masks that follow the training, fp32.
 *
 * As lab_f32_blocks_sgd, of which it is the same for a map of one pixel: an output channel changes where the sum of
 * |gradient| over its maps is above *threshold, and what gives up a block is a tap of an output channel's kernel.
 *
 * gradient of the layer's output, input; weights, blocks as in lab_f32_blocks_conv2d, both changed. Takes one step of
 * state->random per renewal and per task. No scratch; nothing may overlap. */
#ifndef LAB_F32_BLOCKS_CONV2D_SGD_H
#define LAB_F32_BLOCKS_CONV2D_SGD_H

#include "lab_f32_blocks_conv2d.h"
#include "lab_f32_blocks_masks.h"

typedef struct {
    lab_f32_blocks_conv2d_t sparse;
    int32_t changed;
    lab_f32_blocks_renewal_t renewal;
    float rate_scale;
} lab_f32_blocks_conv2d_sgd_t;

void lab_f32_blocks_conv2d_sgd(const lab_f32_blocks_conv2d_sgd_t *sgd, const float *gradient, const float *input,
                               float *weights, uint8_t *blocks, float *threshold, lab_training_state_t *state);

#endif
