/* What a core does at most: two loops that do one thing each, compiled as the other kernels are. */
#ifndef LAB_PEAKS_H
#define LAB_PEAKS_H

#include <stdint.h>

/* Words that lab_peak_copy() moves in one go. */
#define LAB_PEAK_COPY_WORDS 8u

/* Copies `words`, a multiple of LAB_PEAK_COPY_WORDS, between memory aligned to 16 bytes that does not overlap. */
void lab_peak_copy(uint32_t *to, const uint32_t *from, uint32_t words);

/* Rounds that lab_peak_multiply_add() computes in one go. */
#define LAB_PEAK_ROUNDS 4u

/* Floating-point operations, half of them multiplications, of one round of lab_peak_multiply_add(). */
uint32_t lab_peak_flop(void);

/* `rounds`, a multiple of LAB_PEAK_ROUNDS, of x[k] += x[k + 1] * factor for k = 0 … 6 and x[7] += x[0] * factor, in that
 * order, from x[k] = value + k, without a load or a store; in lab_peak_flop() / 16 lanes that are all alike. Yields the
 * sum of all. */
float lab_peak_multiply_add(uint32_t rounds, float value, float factor);

#endif
