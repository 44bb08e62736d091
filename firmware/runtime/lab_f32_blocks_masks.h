/* The masks of lab_f32_blocks_sgd and lab_f32_blocks_conv2d_sgd, which follow the training. */
#ifndef LAB_F32_BLOCKS_MASKS_H
#define LAB_F32_BLOCKS_MASKS_H

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "lab_f32_blocks.h"
#include "lab_random.h"
#include "lab_training.h"

#define LAB_F32_BLOCKS_LEAST_THRESHOLD 1e-6f
#define LAB_F32_BLOCKS_GROWTH 1.1f

/* The threshold after a step in which `changed` outputs were above it, of which `wanted` were to be. */
static inline void lab_f32_blocks_follow(float *threshold, int32_t changed, int32_t wanted)
{
    if (changed > wanted)
        *threshold *= LAB_F32_BLOCKS_GROWTH;
    else if (*threshold > LAB_F32_BLOCKS_LEAST_THRESHOLD)
        *threshold /= LAB_F32_BLOCKS_GROWTH;
}

static inline int32_t lab_f32_blocks_weakest(int32_t kept, const float *weights)
{
    float least = INFINITY;
    int32_t found = 0;
    for (int32_t k = 0; k < kept; k++) {
        const float *const w = weights + LAB_F32_BLOCK * k;
        const float size = fabsf(w[0]) + fabsf(w[1]) + fabsf(w[2]) + fabsf(w[3]);
        if (size < least) {
            least = size;
            found = k;
        }
    }
    return found;
}

static inline bool lab_f32_blocks_has(int32_t kept, const uint8_t *blocks, uint32_t block)
{
    for (int32_t k = 0; k < kept; k++)
        if (blocks[k] == block)
            return true;
    return false;
}

/* In every step whose number `renew_steps` divides, the next of `rows` gives up its weakest block for a random other. */
static inline void lab_f32_blocks_renew(int32_t renew_steps, int32_t rows, int32_t kept, int32_t inputs, float *weights,
                                        uint8_t *blocks, lab_training_state_t *state)
{
    if (renew_steps == 0 || state->step % (uint32_t)renew_steps != 0u)
        return;
    const uint32_t turn = state->step / (uint32_t)renew_steps;
    const int32_t first = (int32_t)(turn % (uint32_t)rows) * kept;
    uint32_t chosen = lab_random_at(lab_random_step(&state->random), 0) % (uint32_t)inputs;
    weights += LAB_F32_BLOCK * first;
    blocks += first;
    const int32_t given_up = lab_f32_blocks_weakest(kept, weights);
    while (lab_f32_blocks_has(kept, blocks, chosen))
        chosen = (chosen + 1u) % (uint32_t)inputs;
    blocks[given_up] = (uint8_t)chosen;
    memset(weights + LAB_F32_BLOCK * given_up, 0, LAB_F32_BLOCK * sizeof *weights);
}

#endif
