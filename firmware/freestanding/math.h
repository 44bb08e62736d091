/* The part of <math.h> the firmware uses, for compilers that come without a C library. The compiler's own run-time library
 * has those of the first group; math.c has the others. None sets errno. */
#ifndef LAB_FREESTANDING_MATH_H
#define LAB_FREESTANDING_MATH_H

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_huge_valf()

#define isfinite(x) __builtin_isfinite(x)
#define isinf(x) __builtin_isinf(x)
#define isnan(x) __builtin_isnan(x)
#define signbit(x) __builtin_signbit(x)

float expf(float x);
float fabsf(float x);
float floorf(float x);
float logf(float x);
float roundf(float x);
float sqrtf(float x);
double exp(double x);
double log(double x);

float erff(float x);
float expm1f(float x);
float log1pf(float x);
float powf(float x, float y);
float tanhf(float x);

#endif
