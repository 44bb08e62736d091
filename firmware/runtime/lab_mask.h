/* One bit per element: where the gradient of a clamp passes. Eight elements to a byte, the first in the lowest bit;
 * bits behind the last element are zero. An element passes strictly inside (low, high). No scratch. */
#ifndef LAB_MASK_H
#define LAB_MASK_H

#include <stdint.h>

typedef struct {
    int32_t count;
    float low, high;
} lab_f32_mask_t;

typedef struct {
    int32_t count;
    int32_t low, high;
} lab_q_mask_t;

typedef struct {
    int32_t count;
} lab_mask_gradient_t;

void lab_f32_mask(const lab_f32_mask_t *layer, const float *input, uint8_t *mask);
void lab_q_mask(const lab_q_mask_t *layer, const int8_t *input, uint8_t *mask);

/* output[i] = bit i of mask ? gradient[i] : 0; output may be gradient. */
void lab_mask_gradient(const lab_mask_gradient_t *layer, const float *gradient, const uint8_t *mask, float *output);

/* output[i] = value[i] inside ? gradient[i] : 0; output may be gradient. */
void lab_q_clamp_gradient(const lab_q_mask_t *layer, const float *gradient, const int8_t *value, float *output);

#endif
