/* Fully connected layer, int8, with the one rounding that LiteRT's reference kernel has here.
 *
 * output = (sum * multiplier + half) >> shift, 1 <= shift <= 62: rounded once, where lab_linear rounds twice. The compiler
 * picks multipliers for which this equals rounding the float64 product, for every sum the layer can reach.
 * input [inputs], weights packed as in lab_dense.h, output [outputs].
 * Scratch: 2 * inputs bytes, the inputs rounded up to a multiple of four; 4-byte aligned.
 * Input, output and scratch must not overlap. */
#ifndef LAB_FULLY_CONNECTED_H
#define LAB_FULLY_CONNECTED_H

#include <stdint.h>

typedef struct {
    const int32_t *weights;
    const int32_t *bias;       /* [outputs], with the input's zero point plus 128 folded in */
    const int32_t *multiplier; /* [outputs] */
    const uint8_t *shift;      /* [outputs] */
    int32_t inputs;
    int32_t outputs;
    int32_t output_zero_point, output_minimum, output_maximum;
} lab_fully_connected_t;

void lab_fully_connected(const lab_fully_connected_t *layer, const int8_t *input, int8_t *output,
                         int8_t *scratch);

#endif
