/* Rows times a weight matrix with per-output requantisation: the inner loop of convolutions and linear layers.
 *
 * Weights are packed by the compiler, one 32-bit word for two inputs of two outputs. The outputs 2p and 2p + 1 are pair
 * p; inputs are padded with zero weights to a multiple of four, a last odd output with an output of zero weights. A pair's
 * words follow each other: for every four inputs k … k+3 one word for (k, k+2) and one for (k+1, k+3), bytes from low to
 * high: first input: weight of output 2p plus 128, weight of output 2p + 1; second input: the same two. Read as two
 * int16 a word is 256 · w(2p + 1) + w(2p) + 128, so that one dual multiply-accumulate sums both outputs at once, and
 * with the exact sum of the second output the first one's is exact too (modulo 2^32).
 * Inputs count as input + 128, which are not negative; the compiler folds that into the bias. */
#ifndef LAB_DENSE_H
#define LAB_DENSE_H

#include <stdint.h>

typedef struct {
    const int32_t *weights;    /* packed */
    const int32_t *bias;       /* [outputs], with the input's zero point plus 128 folded in */
    const int32_t *multiplier; /* [outputs], Q31 */
    const uint8_t *shift;      /* [outputs], right shift */
    int32_t inputs;
    int32_t outputs;
    int32_t output_zero_point;
    int32_t output_minimum;
    int32_t output_maximum;
} lab_dense_t;

/* Inputs of a packed row. */
static inline int32_t lab_dense_padded(int32_t inputs)
{
    return (inputs + 3) & ~3;
}

/* Whether the target has code for four rows that requantises this layer exactly. */
int32_t lab_dense_fast(const lab_dense_t *dense);

/* output[o] for one row of `inputs` values. Scratch: 2 * padded inputs bytes, 4-byte aligned. */
void lab_dense_row(const lab_dense_t *dense, const int8_t *row, int8_t *output, int8_t *scratch);

/* Four rows to four rows of outputs one behind the other; `fast` is lab_dense_fast(dense). Scratch: 8 * padded inputs
 * bytes, 4-byte aligned. */
void lab_dense_four_rows(const lab_dense_t *dense, int32_t fast, const int8_t *const rows[4], int8_t *output,
                         int8_t *scratch);

#endif
