/* y += scale * x, fp32: a row of an outer product. x, y [count], count at least 1; they must not overlap. */
#ifndef LAB_F32_AXPY_H
#define LAB_F32_AXPY_H

#include <stdint.h>

void lab_f32_axpy(const float *x, float *y, int32_t count, float scale);

#endif
