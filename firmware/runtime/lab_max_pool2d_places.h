/* Max pooling as lab_max_pool2d, with the place of each maximum in its window (row * kernel_width + column), which its
 * gradient needs; the first of equal ones. Windows have at most 256 elements and cover at least one of the input.
 * places [output_height][output_width][channels]. No scratch; nothing must overlap. */
#ifndef LAB_MAX_POOL2D_PLACES_H
#define LAB_MAX_POOL2D_PLACES_H

#include "lab_max_pool2d.h"

void lab_max_pool2d_places(const lab_max_pool2d_t *layer, const int8_t *input, int8_t *output, uint8_t *places);

#endif
