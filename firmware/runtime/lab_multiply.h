/* Product of two int8 tensors, either repeated as a whole as often as it fits into the output, as TFLite's MUL.
 * first [first_size], second [second_size], output [size]; both sizes divide it. multiplier and shift as in
 * lab_rescale.h. No scratch; output may be an input of its size. */
#ifndef LAB_MULTIPLY_H
#define LAB_MULTIPLY_H

#include <stdint.h>

typedef struct {
    int32_t size, first_size, second_size;
    int32_t first_zero_point, second_zero_point;
    int32_t multiplier, shift;
    int32_t output_zero_point;
} lab_multiply_t;

void lab_multiply(const lab_multiply_t *layer, const int8_t *first, const int8_t *second, int8_t *output);

#endif
