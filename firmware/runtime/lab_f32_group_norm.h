/* Normalisation by statistics of the sample itself: y = (x - mean) / sqrt(variance + epsilon) * scale + shift, with mean and
 * variance over the positions and channels of one group. Group norm, and by its sizes also layer norm (positions = groups
 * = 1), instance norm (one channel per group) and batch norm over the batch (batch = 1, one channel per group).
 * input, output [batch][positions][groups][channels]; scale, shift [groups][channels], each may be a null pointer;
 * mean, deviation [batch][groups]: what the gradient needs, deviation is 1 / sqrt(variance + epsilon).
 * Two passes, so that a large mean costs no digits. Sums in float, one value after the other in runs of so many
 * positions, whose sums are added up: one sum over a batch of large maps would lose four digits. No scratch; output may
 * be input. */
#ifndef LAB_F32_GROUP_NORM_H
#define LAB_F32_GROUP_NORM_H

#include <stdint.h>

#define LAB_F32_GROUP_NORM_RUN 1024

/* End of the run of positions that begins at first; shared with the gradients, which add up in the same runs. */
static inline int32_t lab_f32_group_norm_run_end(int32_t first, int32_t positions)
{
    return positions - first < LAB_F32_GROUP_NORM_RUN ? positions : first + LAB_F32_GROUP_NORM_RUN;
}

typedef struct {
    int32_t batch, positions, groups, channels;
    float epsilon;
} lab_f32_group_norm_t;

void lab_f32_group_norm(const lab_f32_group_norm_t *layer, const float *input, const float *scale, const float *shift,
                        float *output, float *mean, float *deviation);

#endif
