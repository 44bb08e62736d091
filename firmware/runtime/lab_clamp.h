/* Clamp of an int8 tensor (a ReLU that was not fused). input, output [size]. No scratch; output may be input. */
#ifndef LAB_CLAMP_H
#define LAB_CLAMP_H

#include <stdint.h>

typedef struct {
    int32_t size;
    int32_t minimum, maximum;
} lab_clamp_t;

void lab_clamp(const lab_clamp_t *layer, const int8_t *input, int8_t *output);

#endif
