/* Dot products of one row with weights [outputs][inputs]. */
#ifndef LAB_DOT_H
#define LAB_DOT_H

#include <stdint.h>

/* sums[output] += row . weights[output] for one row and four outputs. */
static inline void lab_dot_1x4(const int8_t *x, const int8_t *w0, int32_t count, int32_t *result)
{
    int32_t sums[4] = {result[0], result[1], result[2], result[3]};
    const int8_t *w1 = w0 + count;
    const int8_t *w2 = w1 + count;
    const int8_t *w3 = w2 + count;
    const int8_t *const end = x + count;
    while (x != end) {
        const int32_t a = *x++;
        sums[0] += a * *w0++;
        sums[1] += a * *w1++;
        sums[2] += a * *w2++;
        sums[3] += a * *w3++;
    }
    for (int32_t i = 0; i < 4; i++) {
        result[i] = sums[i];
    }
}

static inline int32_t lab_dot(const int8_t *x, const int8_t *w, int32_t count, int32_t sum)
{
    for (int32_t i = 0; i < count; i++) {
        sum += x[i] * w[i];
    }
    return sum;
}

#endif
