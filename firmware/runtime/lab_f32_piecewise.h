/* y = f(x), element by element: the functions that need nothing of libm, so that a model without others links none of it.
 * Exact as PyTorch's, but for rounding of the multiplications in hardswish and hardsigmoid (2 ulp of the larger of input
 * and result). input, output [count]. No scratch; output may be input. */
#ifndef LAB_F32_PIECEWISE_H
#define LAB_F32_PIECEWISE_H

#include <stdint.h>

enum {
    LAB_CLAMP,       /* x within [first, second]; ReLU is [0, inf] */
    LAB_LEAKY_RELU,  /* x > 0 ? x : first * x */
    LAB_HARDSIGMOID, /* min(max(x + 3, 0), 6) / 6 */
    LAB_HARDSWISH,   /* x * hardsigmoid(x) */
    LAB_AFFINE,      /* first * x + second */
    LAB_DIVIDE,      /* x / first */
    LAB_RECIPROCAL,  /* first / x */
    LAB_ABSOLUTE,    /* |x| */
    LAB_SIGN,        /* -1, 0 or 1 */
    LAB_SQUARE,      /* x * x */
    LAB_CUBE,        /* x * x * x */
    LAB_GREATER,     /* x > first ? 1 : 0, and so on: masks are 0 and 1 */
    LAB_GREATER_EQUAL,
    LAB_LESS,
    LAB_LESS_EQUAL,
    LAB_EQUAL,
    LAB_NOT_EQUAL,
    LAB_CHOOSE, /* x != 0 ? first : second */
};

typedef struct {
    int32_t count, function;
    float first, second;
} lab_f32_piecewise_t;

void lab_f32_piecewise(const lab_f32_piecewise_t *layer, const float *input, float *output);

#endif
