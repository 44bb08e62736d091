/* Which samples are worth sending to a host that adapts the network: neither too sure nor too unsure (CEMA). */
#ifndef LAB_RUNNER_ENTROPY_FILTER_H
#define LAB_RUNNER_ENTROPY_FILTER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    float low;       /* nats; less tells the host nothing */
    float high;      /* nats, at the beginning; more is not to be relied on */
    float shrink;    /* of the upper threshold, once it moves */
    uint32_t settle; /* samples after which it moves with the mean entropy; 0: it stays */
} entropy_filter_settings_t;

/* All zero at the beginning. */
typedef struct {
    float mean;         /* entropy of everything seen */
    float settled_mean; /* the same when the upper threshold began to move */
    uint32_t seen;
} entropy_filter_t;

/* The upper threshold at present, nats. */
float entropy_filter_high(const entropy_filter_t *filter, const entropy_filter_settings_t *settings);

/* Takes the entropy of a sample's outputs, nats; true where the sample is to be sent. */
bool entropy_filter_takes(entropy_filter_t *filter, const entropy_filter_settings_t *settings, float entropy);

#endif
