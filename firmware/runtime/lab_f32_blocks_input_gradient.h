/* Gradient of the input of lab_f32_blocks, fp32: gradient [batch][rows] of its output; weights, blocks as there;
 * output [batch][columns]. Rows without a gradient, as a ReLU leaves them, cost nothing. No scratch; output must not
 * overlap. */
#ifndef LAB_F32_BLOCKS_INPUT_GRADIENT_H
#define LAB_F32_BLOCKS_INPUT_GRADIENT_H

#include <stdint.h>

typedef struct {
    int32_t batch, rows, kept, columns;
} lab_f32_blocks_input_gradient_t;

void lab_f32_blocks_input_gradient(const lab_f32_blocks_input_gradient_t *layer, const float *gradient,
                                   const float *weights, const uint8_t *blocks, float *output);

#endif
