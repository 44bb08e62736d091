/* Products of int8 matrices that are both computed, as attention has them; TFLite's rounding.
 * first [batch][rows][depth], or [batch][depth][rows] where transpose_first; second [batch][depth][columns], or
 * [batch][columns][depth] where transpose_second; output [batch][rows][columns]. depth at most 16384.
 * No scratch; output overlaps neither input. */
#ifndef LAB_MATMUL_H
#define LAB_MATMUL_H

#include <stdint.h>

typedef struct {
    int32_t batch, rows, columns, depth;
    int32_t transpose_first, transpose_second;
    int32_t first_zero_point, second_zero_point;
    int32_t multiplier, shift; /* from the product's scale to the output's; shift to the right, negative to the left */
    int32_t output_zero_point;
} lab_matmul_t;

void lab_matmul(const lab_matmul_t *layer, const int8_t *first, const int8_t *second, int8_t *output);

#endif
