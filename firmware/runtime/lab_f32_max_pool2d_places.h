/* lab_f32_max_pool2d, which also writes where in its window each maximum was found, for the gradient: row * kernel_width +
 * column, one byte where the window has at most 256 elements, else int32_t. places has output's shape. */
#ifndef LAB_F32_MAX_POOL2D_PLACES_H
#define LAB_F32_MAX_POOL2D_PLACES_H

#include "lab_f32_max_pool2d.h"

void lab_f32_max_pool2d_places(const lab_f32_max_pool2d_t *layer, const float *input, float *output, void *places);

#endif
