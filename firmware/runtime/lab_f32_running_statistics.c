#include "lab_f32_running_statistics.h"

void lab_f32_running_statistics(const lab_f32_running_statistics_t *layer, float *running_mean, float *running_variance,
                                const float *mean, const float *deviation)
{
    const float kept = 1.0f - layer->momentum;
    for (int32_t c = 0; c < layer->channels; c++) {
        const float variance = 1.0f / (deviation[c] * deviation[c]) - layer->epsilon;
        running_mean[c] = kept * running_mean[c] + layer->momentum * mean[c];
        running_variance[c] = kept * running_variance[c] + layer->momentum * layer->unbiased * variance;
    }
}
