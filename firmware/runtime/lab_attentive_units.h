/* Attentive units: what may stand between a frozen extractor and a classifier, and learn with it (Lee et al. 2021,
 * "Few-Shot and Continual Learning with Attentive Independent Mechanisms"). Each of many units has a state, from which
 * its query comes, and a matrix for values; a latent's key tells which few of them answer. Their values, weighted by how
 * well query and key match, are added up and brought to length 1. Only units that answered are learnt. */
#ifndef LAB_ATTENTIVE_UNITS_H
#define LAB_ATTENTIVE_UNITS_H

#include <stdint.h>

typedef struct {
    uint32_t count;   /* units */
    uint32_t active;  /* units that answer: those of the highest scores, the first of equals */
    uint32_t hidden;  /* elements of a state */
    uint32_t keys;    /* of a query and of a key */
    uint32_t inputs;  /* of a latent */
    uint32_t outputs; /* of a value */
    float *state;     /* [count][hidden] */
    float *query;     /* [count][hidden][keys] */
    float *key;       /* [inputs][keys] */
    float *key_bias;  /* [keys] */
    float *value;     /* [count][inputs][outputs] */
} lab_attentive_units_t;

/* Features, fp32 [outputs], of a latent, fp32 [inputs]; they lie in `work` until the next call. It has
 * 2 * outputs + 1 + 3 * keys + count * (keys + 1) + active * (outputs + 1) floats: features and their gradient, a length,
 * key, gradients by key and query, each unit's query and score, each answer and whose it is. */
const float *lab_attentive_forward(const lab_attentive_units_t *units, const float *latent, float *work);

/* A step of plain gradient descent. `work` is as forward left it for this very latent; `gradient`, fp32 [outputs], is
 * the loss's by the features. */
void lab_attentive_descend(const lab_attentive_units_t *units, const float *latent, float *work,
                           const float *gradient, float rate);

#endif
