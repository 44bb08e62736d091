/* Fully connected layer, int8.
 * input [inputs], weights [outputs][inputs], output [outputs]. No scratch; input and output must not overlap. */
#ifndef LAB_LINEAR_H
#define LAB_LINEAR_H

#include "lab_dense.h"

typedef lab_dense_t lab_linear_t;

void lab_linear(const lab_linear_t *layer, const int8_t *input, int8_t *output);

#endif
