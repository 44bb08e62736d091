/* The inner loop of depthwise convolutions: sums over two levels of products of two tensors, channel by channel.
 *
 * sums[c] = start[c] + sum over outer, inner of a[outer * a_outer + inner * a_inner + c] * b[outer * b_outer + inner * b_inner +
 * c], in that order, for c < channels <= LAB_F32_CHANNELS. Arm cores with an FPU contract multiply and add into one
 * rounding. */
#ifndef LAB_F32_CHANNELS_H
#define LAB_F32_CHANNELS_H

#include <stdint.h>

#define LAB_F32_CHANNELS 16

typedef struct {
    int32_t outer, inner; /* inner at least 1 unless outer is 0 */
    int32_t a_outer, a_inner;
    int32_t b_outer, b_inner;
} lab_f32_channels_t;

void lab_f32_channels(const lab_f32_channels_t *walk, const float *a, const float *b, int32_t channels,
                      const float *start, float *sums);

#endif
