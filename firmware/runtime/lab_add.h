/* Element-wise sum of two int8 tensors with quantisations of their own, as TFLite's int8 ADD.
 * first, second, output [size]. No scratch; output may be first or second (or both). */
#ifndef LAB_ADD_H
#define LAB_ADD_H

#include <stdint.h>

typedef struct {
    int32_t size;
    int32_t first_zero_point, first_multiplier, first_shift;
    int32_t second_zero_point, second_multiplier, second_shift;
    int32_t output_zero_point, output_multiplier, output_shift;
    int32_t output_minimum, output_maximum;
} lab_add_t;

void lab_add(const lab_add_t *layer, const int8_t *first, const int8_t *second, int8_t *output);

#endif
