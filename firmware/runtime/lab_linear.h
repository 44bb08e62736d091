/* Fully connected layer, int8.
 * input [inputs], weights packed as in lab_dense.h, output [outputs].
 * Scratch: 2 * inputs bytes, the inputs rounded up to a multiple of four; 4-byte aligned.
 * Input, output and scratch must not overlap. */
#ifndef LAB_LINEAR_H
#define LAB_LINEAR_H

#include "lab_dense.h"

typedef lab_dense_t lab_linear_t;

void lab_linear(const lab_linear_t *layer, const int8_t *input, int8_t *output, int8_t *scratch);

#endif
