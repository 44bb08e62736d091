#include "detector.h"

#include <math.h>

float softmax_entropy(const float *logits, uint32_t classes)
{
    float most = logits[0];
    float total = 0.0f;
    float weighted = 0.0f;
    for (uint32_t i = 1; i < classes; i++)
        if (logits[i] > most)
            most = logits[i];
    for (uint32_t i = 0; i < classes; i++) {
        float below = logits[i] - most;
        float share = expf(below);
        total += share;
        weighted += share * below;
    }
    return logf(total) - weighted / total;
}

bool detector_sees(detector_t *detector, const detector_settings_t *settings, const float *logits, uint32_t classes)
{
    float entropy = softmax_entropy(logits, classes);
    detector->seen++;
    /* The mean of what was seen until the weight is smaller than that of a mean: no first value weighs too much. */
    float mean_weight = 1.0f / (float)detector->seen;
    float weight = mean_weight > settings->weight ? mean_weight : settings->weight;
    detector->average += weight * (entropy - detector->average);
    if (detector->seen == settings->settle)
        detector->base = detector->average;
    return detector->seen > settings->settle && fabsf(detector->average - detector->base) > settings->threshold;
}

void detector_restart(detector_t *detector)
{
    *detector = (detector_t){0};
}
