/* Softmax over rows of int8, output scale 1/256 and zero point -128, to the bit as TFLite's reference kernel: exponentials
 * of differences to the row's maximum in Q5.26, their sum in Q12.19, one reciprocal per row by Newton's method.
 * Differences are first multiplied by multiplier * 2^-31 * 2^left_shift; those below minimum_difference yield zero.
 * input, output [rows][depth]; output may be input. depth < 4096.
 * Scratch, 4-byte aligned: 1024 bytes for a table of all exponentials, or a null pointer: each is computed when needed. */
#ifndef LAB_SOFTMAX_H
#define LAB_SOFTMAX_H

#include <stdint.h>

typedef struct {
    int32_t rows, depth;
    int32_t multiplier, left_shift;
    int32_t minimum_difference;
} lab_softmax_t;

void lab_softmax(const lab_softmax_t *layer, const int8_t *input, int8_t *output, int8_t *scratch);

#endif
