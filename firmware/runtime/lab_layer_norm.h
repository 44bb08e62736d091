/* Layer norm of int8 rows: each row by its own mean and variance, a slope and an offset per channel. Every step is an
 * integer one: all machines yield the same bytes.
 *
 * v = channels * q - (sum of the row) and D = channels * (sum of squares) - (sum of the row)^2 are exact;
 * v / sqrt(D + floor) is the normalised value. output = slope * v / sqrt(D + floor) + offset, rounded to nearest.
 *
 * input, output [rows][channels]; channels at most 16384. No scratch; output may be input. */
#ifndef LAB_LAYER_NORM_H
#define LAB_LAYER_NORM_H

#include <stdint.h>

typedef struct {
    const int32_t *slope;  /* output steps per standard deviation, 2^shift of them are one; below 2^23 */
    const int32_t *offset; /* with the output's zero point and half a step, Q16 */
    int32_t rows, channels;
    int32_t floor, floor_shift; /* floor * 2^floor_shift: epsilon in squared steps, times channels^2, Q12; 1 ... 2^58 */
    int32_t shift; /* 0 ... 30 */
} lab_layer_norm_t;

void lab_layer_norm(const lab_layer_norm_t *layer, const int8_t *input, int8_t *output);

#endif
