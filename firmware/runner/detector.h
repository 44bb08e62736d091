/* Shift detection by the entropy of a classifier's outputs: a moving average that leaves its base, to either side. */
#ifndef LAB_RUNNER_DETECTOR_H
#define LAB_RUNNER_DETECTOR_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    float weight;    /* of a new sample in the moving average */
    float threshold; /* nats */
    uint32_t settle; /* samples after which the average becomes the base */
} detector_settings_t;

/* All zero at the beginning. */
typedef struct {
    float average;
    float base;
    uint32_t seen; /* since the beginning or the restart */
} detector_t;

/* Entropy of the softmax of `classes` logits, nats. */
float softmax_entropy(const float *logits, uint32_t classes);

/* Takes the logits of a sample; true where the average is further than the threshold from its base. */
bool detector_sees(detector_t *detector, const detector_settings_t *settings, const float *logits, uint32_t classes);

/* The network has changed: what is seen from now on makes another base. */
void detector_restart(detector_t *detector);

#endif
