/* Perturbations of a model's variables that are made again from a key whenever they are needed, so that none is stored:
 * each element moves by +sigma or -sigma. Element i of a part has bit i % 32 of a word; words are counted through all
 * parts, each of which begins a new one, and word `word` of pass `pass` is the number at pass * words + word of the
 * counter-based generator (lab_random.h). A set bit is a plus. */
#ifndef LAB_PERTURBATION_H
#define LAB_PERTURBATION_H

#include "lab_random.h"

#define LAB_PERTURBATION_WORD 32u

/* A variable in RAM. */
typedef struct {
    float *values;
    uint32_t count;
} lab_part_t;

typedef struct {
    const lab_part_t *parts;
    uint32_t part_count;
    uint32_t words;  /* of one perturbation: of all parts together */
    uint32_t passes; /* perturbations of one step, at least 1 */
    float sigma;     /* above 0 */
} lab_perturbation_t;

static inline uint32_t lab_perturbation_signs(const lab_perturbation_t *perturbation, uint32_t key, uint32_t pass,
                                              uint32_t word)
{
    return lab_random_mix(key + (pass * perturbation->words + word) * LAB_RANDOM_STRIDE);
}

/* How many elements of a part the word has that begins at element `first`. */
static inline uint32_t lab_perturbation_span(const lab_part_t *part, uint32_t first)
{
    const uint32_t left = part->count - first;
    return left < LAB_PERTURBATION_WORD ? left : LAB_PERTURBATION_WORD;
}

#endif
