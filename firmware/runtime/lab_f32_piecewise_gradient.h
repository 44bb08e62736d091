/* Gradient of lab_f32_piecewise with respect to its input: gradient[i] * f'(saved[i]). Only of the functions below.
 * gradient, saved, output [count]; saved is f's input; for LAB_CLAMP its output does as well, and for LAB_LEAKY_RELU with
 * a slope above zero too. No scratch; output may be gradient or saved. */
#ifndef LAB_F32_PIECEWISE_GRADIENT_H
#define LAB_F32_PIECEWISE_GRADIENT_H

#include "lab_f32_piecewise.h"

typedef struct {
    int32_t count, function; /* LAB_CLAMP (strictly inside), LAB_LEAKY_RELU, LAB_HARDSIGMOID or LAB_HARDSWISH */
    float first, second;
} lab_f32_piecewise_gradient_t;

void lab_f32_piecewise_gradient(const lab_f32_piecewise_gradient_t *layer, const float *gradient, const float *saved,
                                float *output);

#endif
