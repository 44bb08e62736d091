/* int8 to real values: output[i] = scale * (input[i] - zero_point). No scratch; they must not overlap. */
#ifndef LAB_DEQUANTIZE_H
#define LAB_DEQUANTIZE_H

#include <stdint.h>

typedef struct {
    int32_t count;
    int32_t zero_point;
    float scale;
} lab_dequantize_t;

void lab_dequantize(const lab_dequantize_t *layer, const int8_t *input, float *output);

#endif
