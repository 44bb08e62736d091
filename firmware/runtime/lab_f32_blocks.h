/* A linear layer whose weights are blocks of four inputs, fp32: only the blocks that are kept lie in memory.
 *
 * weights [rows][kept][4]; blocks [rows][kept], the number of each block among those of the input, each once in a row;
 * input [batch][columns]; bias [rows] or a null pointer; output [batch][rows] = clamp(sum of weights * input over the
 * kept blocks, one float32 sum in the order in which they lie, + bias[row]). No scratch; output must not overlap
 * input. */
#ifndef LAB_F32_BLOCKS_H
#define LAB_F32_BLOCKS_H

#include <stdint.h>

#define LAB_F32_BLOCK 4

typedef struct {
    int32_t batch, rows, kept, columns; /* columns: a multiple of four */
    float minimum, maximum;
} lab_f32_blocks_t;

void lab_f32_blocks(const lab_f32_blocks_t *layer, const float *input, const float *weights, const uint8_t *blocks,
                    const float *bias, float *output);

#endif
