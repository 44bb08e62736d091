/* Rows times a weight matrix with per-output requantisation: the inner loop of convolutions and linear layers. */
#ifndef LAB_DENSE_H
#define LAB_DENSE_H

#include <stdint.h>

typedef struct {
    const int8_t *weights;     /* [outputs][inputs] */
    const int32_t *bias;       /* [outputs], with the input's zero point folded in */
    const int32_t *multiplier; /* [outputs], Q31 */
    const uint8_t *shift;      /* [outputs], right shift */
    int32_t inputs;
    int32_t outputs;
    int32_t output_zero_point;
    int32_t output_minimum;
    int32_t output_maximum;
} lab_dense_t;

/* output[o] for one row of `inputs` values. No scratch. */
void lab_dense_row(const lab_dense_t *dense, const int8_t *row, int8_t *output);

/* Two rows at once: every weight is loaded once for both. */
void lab_dense_two_rows(const lab_dense_t *dense, const int8_t *row0, const int8_t *row1, int8_t *output0,
                        int8_t *output1);

#endif
