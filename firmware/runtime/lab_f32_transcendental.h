/* y = f(x), element by element, with libm's expf, erff, logf …: within 4 ulp of PyTorch's result plus 1e-7, GELU within
 * 4 ulp of its input. input, output [count]. No scratch; output may be input. */
#ifndef LAB_F32_TRANSCENDENTAL_H
#define LAB_F32_TRANSCENDENTAL_H

#include <stdint.h>

enum {
    LAB_EXP,
    LAB_LOG,
    LAB_SQRT,
    LAB_RSQRT,
    LAB_POWER,     /* x ^ first */
    LAB_SIGMOID,   /* 1 / (1 + exp(-x)) */
    LAB_TANH,
    LAB_SILU,      /* x * sigmoid(x) */
    LAB_GELU,      /* x * (1 + erf(x / sqrt(2))) / 2 */
    LAB_GELU_TANH, /* its approximation x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2 */
    LAB_SOFTPLUS,  /* log(1 + exp(first * x)) / first; x where first * x > second */
    LAB_ELU,       /* x > 0 ? first * x : second * (exp(x) - 1) */
};

typedef struct {
    int32_t count, function;
    float first, second;
} lab_f32_transcendental_t;

void lab_f32_transcendental(const lab_f32_transcendental_t *layer, const float *input, float *output);

#endif
