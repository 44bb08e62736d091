/* Real values to int8: output[i] = zero_point + input[i] / scale, rounded half to even, saturated; NaN becomes -128. No
 * scratch; they must not overlap. */
#ifndef LAB_QUANTIZE_H
#define LAB_QUANTIZE_H

#include <stdint.h>

typedef struct {
    int32_t count;
    int32_t zero_point;
    float scale;
} lab_quantize_t;

void lab_quantize(const lab_quantize_t *layer, const float *input, int8_t *output);

#endif
