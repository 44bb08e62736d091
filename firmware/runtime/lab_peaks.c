#include "lab_peaks.h"

#include "lab_f32_arithmetic.h"

/* As many chains as hide what an addition behind a multiplication waits for, in registers that all cores have. */
#define CHAINS 8u

/* x + y * by, as the other kernels have it; of four values at once where every processor of the kind can. The compiler's
 * vectors need no permission to reorder sums, which the other kernels do not give either. */
#if defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
#define LANES 4u
typedef float32x4_t lanes_t;
#define ADD_PRODUCT(x, y, by) vfmaq_f32((x), (y), (by))
#elif defined(__SSE2__)
#define LANES 4u
typedef float lanes_t __attribute__((vector_size(16)));
#define ADD_PRODUCT(x, y, by) LAB_MULTIPLY_ADD((y), (by), (x))
#else
#define LANES 1u
typedef float lanes_t;
#define ADD_PRODUCT(x, y, by) LAB_MULTIPLY_ADD((y), (by), (x))
#endif

#if LANES == 4u
#define ALL_LANES(value) {(value), (value), (value), (value)}
static float sum(lanes_t lanes)
{
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}
#else
#define ALL_LANES(value) (value)
static float sum(lanes_t lanes)
{
    return lanes;
}
#endif

/* Loads first: the compiler then needs no proof that a store changes nothing that is still to be loaded, and makes no
 * call of a library's memcpy of it, which may go byte by byte. */
void lab_peak_copy(uint32_t *to, const uint32_t *from, uint32_t words)
{
    for (uint32_t i = 0; i < words; i += LAB_PEAK_COPY_WORDS) {
        const uint32_t a = from[i], b = from[i + 1], c = from[i + 2], d = from[i + 3];
        const uint32_t e = from[i + 4], f = from[i + 5], g = from[i + 6], h = from[i + 7];
        to[i] = a;
        to[i + 1] = b;
        to[i + 2] = c;
        to[i + 3] = d;
        to[i + 4] = e;
        to[i + 5] = f;
        to[i + 6] = g;
        to[i + 7] = h;
    }
}

uint32_t lab_peak_flop(void)
{
    return 2u * CHAINS * LANES;
}

/* Chains feed on each other: products that stay the same would be taken out of the loop. */
#define ROUND                      \
    do {                           \
        a = ADD_PRODUCT(a, b, by); \
        b = ADD_PRODUCT(b, c, by); \
        c = ADD_PRODUCT(c, d, by); \
        d = ADD_PRODUCT(d, e, by); \
        e = ADD_PRODUCT(e, f, by); \
        f = ADD_PRODUCT(f, g, by); \
        g = ADD_PRODUCT(g, h, by); \
        h = ADD_PRODUCT(h, a, by); \
    } while (0)

float lab_peak_multiply_add(uint32_t rounds, float value, float factor)
{
    const lanes_t by = ALL_LANES(factor), one = ALL_LANES(1.0f);
    lanes_t a = ALL_LANES(value);
    lanes_t b = a + one, c = b + one, d = c + one, e = d + one, f = e + one, g = f + one, h = g + one;
    for (uint32_t i = 0; i < rounds; i += LAB_PEAK_ROUNDS) {
        ROUND;
        ROUND;
        ROUND;
        ROUND;
    }
    return ((sum(a) + sum(b)) + (sum(c) + sum(d))) + ((sum(e) + sum(f)) + (sum(g) + sum(h)));
}
