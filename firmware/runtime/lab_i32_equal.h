/* A mask over labels: output[i] is 1 where input[i] == value, else 0. input, output [count]. No scratch. */
#ifndef LAB_I32_EQUAL_H
#define LAB_I32_EQUAL_H

#include <stdint.h>

typedef struct {
    int32_t count, value;
} lab_i32_equal_t;

void lab_i32_equal(const lab_i32_equal_t *layer, const int32_t *input, float *output);

#endif
