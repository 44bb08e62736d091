/* A convolution whose weights are blocks of four input channels, fp32: only the blocks that are kept lie in memory.
 *
 * One group, input channels a multiple of four; any kernel, stride, padding and dilation. Every tap of
 * every output's kernel keeps as many blocks: weights [output_channels][kernel_height][kernel_width][kept][4], blocks
 * the same without the last, the number of each block among those of the input's channels, each once in a tap. input,
 * bias and output as in lab_f32_conv2d; an output is one float32 sum in the order in which the weights lie, then the
 * bias, sample after sample. No scratch; output must not overlap input. */
#ifndef LAB_F32_BLOCKS_CONV2D_H
#define LAB_F32_BLOCKS_CONV2D_H

#include "lab_f32_conv2d.h"

typedef struct {
    lab_f32_conv2d_t layer;
    int32_t kept;
} lab_f32_blocks_conv2d_t;

void lab_f32_blocks_conv2d(const lab_f32_blocks_conv2d_t *sparse, const float *input, const float *weights,
                           const uint8_t *blocks, const float *bias, float *output);

#endif
