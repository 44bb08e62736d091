/* Gradient of lab_f32_transcendental with respect to its input: gradient[i] * f'. Only of the functions below.
 * gradient, saved, output [count]; saved is f's output for LAB_SIGMOID and LAB_TANH, else its input.
 * No scratch; output may be gradient or saved. */
#ifndef LAB_F32_TRANSCENDENTAL_GRADIENT_H
#define LAB_F32_TRANSCENDENTAL_GRADIENT_H

#include "lab_f32_transcendental.h"

typedef struct {
    int32_t count, function; /* LAB_SIGMOID, LAB_TANH, LAB_SILU, LAB_GELU, LAB_GELU_TANH, LAB_SOFTPLUS or LAB_ELU */
    float first, second;
} lab_f32_transcendental_gradient_t;

void lab_f32_transcendental_gradient(const lab_f32_transcendental_gradient_t *layer, const float *gradient,
                                     const float *saved, float *output);

#endif
