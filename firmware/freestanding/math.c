/* What <math.h> has and the compiler's run-time library has not. Each is computed in double precision, so that the rounding
 * to float is all the error there is: within half a unit in the last place and a 2^-8 part of one. Special values are those
 * of ISO C99, annex F. */
#include <math.h>
#include <stdint.h>

/* Below this the leading terms of the power series are more exact than a difference of functions. */
#define SMALL 0x1p-10f

float expm1f(float x)
{
    double d = x;
    if (fabsf(x) < SMALL)
        return (float)(d * (1.0 + d * (0.5 + d * (1.0 / 6.0))));
    return (float)(exp(d) - 1.0);
}

float log1pf(float x)
{
    double d = x;
    if (fabsf(x) < SMALL)
        return (float)(d * (1.0 - d * (0.5 - d * (1.0 / 3.0))));
    return (float)log(1.0 + d);
}

float tanhf(float x)
{
    double d = x;
    if (fabsf(x) < SMALL)
        return (float)(d * (1.0 - d * d * (1.0 / 3.0)));
    return (float)(1.0 - 2.0 / (exp(2.0 * d) + 1.0));
}

static double polynomial(const double *coefficients, int degree, double x)
{
    double sum = coefficients[degree];
    for (int i = degree - 1; i >= 0; i--)
        sum = sum * x + coefficients[i];
    return sum;
}

/* Interpolations at Chebyshev points: erf(x) / x in x^2 for |x| <= 1 (relative error 1e-12), and above it
 * exp(x^2) erfc(x) in 1 / (1 + x) up to x = 4 (absolute error 8e-11), from where on erf rounds to 1. */
float erff(float x)
{
    static const double near[] = {
        1.1283791670946768,     -0.37612638889635425,    0.11283791308611053,
        -0.026866133235594301,  0.0052237834789967338,   -0.00085426380341988278,
        0.00011956563006728838, -1.3909342776151344e-05, 1.0589387719421099e-06,
    };
    static const double far[] = {
        2.561328281432571e-05, 0.56330858012291984, 0.57753651085235069, 0.16551362115716411, 0.36041012417093732,
        -2.9805173066990713,   4.7739795896102653,  -3.4761027157677904, 1.0264312278484693,
    };
    double d = fabsf(x);
    double result = 1.0;
    if (isnan(x))
        return x;
    if (d <= 1.0)
        result = d * polynomial(near, 8, d * d);
    else if (d < 4.0)
        result = 1.0 - exp(-d * d) * polynomial(far, 8, 1.0 / (1.0 + d));
    return signbit(x) ? -(float)result : (float)result;
}

float powf(float x, float y)
{
    float magnitude = fabsf(x);
    int whole = floorf(y) == y;
    /* Floats of 2^24 and more are even. */
    int odd = whole && fabsf(y) < 0x1p24f && ((int32_t)y & 1);
    if (x == 1.0f || y == 0.0f)
        return 1.0f;
    if (x < 0.0f && !whole && !isinf(x))
        return NAN;
    float result = magnitude == 1.0f ? 1.0f : (float)exp((double)y * log((double)magnitude));
    return odd && signbit(x) ? -result : result;
}
