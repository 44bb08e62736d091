/* Running statistics of batch norm follow those of a batch: running += momentum * (batch's - running).
 * running_mean, running_variance [channels], both changed; mean, deviation (1 / sqrt(variance + epsilon)) [channels] of
 * the batch, as lab_f32_group_norm yields them. The variance that is followed is `unbiased` times the batch's: n / (n - 1)
 * of n values of a channel. No scratch. */
#ifndef LAB_F32_RUNNING_STATISTICS_H
#define LAB_F32_RUNNING_STATISTICS_H

#include <stdint.h>

typedef struct {
    int32_t channels;
    float momentum, epsilon, unbiased;
} lab_f32_running_statistics_t;

void lab_f32_running_statistics(const lab_f32_running_statistics_t *layer, float *running_mean, float *running_variance,
                                const float *mean, const float *deviation);

#endif
