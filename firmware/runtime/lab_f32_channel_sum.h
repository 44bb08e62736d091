/* Sum over all positions, fp32: the gradient of a bias.
 * gradient [rows][channels], sum [channels]; one float32 sum per channel over rows from first to last. No scratch. */
#ifndef LAB_F32_CHANNEL_SUM_H
#define LAB_F32_CHANNEL_SUM_H

#include <stdint.h>

typedef struct {
    int32_t rows, channels;
} lab_f32_channel_sum_t;

void lab_f32_channel_sum(const lab_f32_channel_sum_t *layer, const float *gradient, float *sum);

#endif
