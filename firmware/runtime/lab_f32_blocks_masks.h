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

/* Which weights are kept when. Steps count from 1, and a task begins where the one before has ended. */
typedef struct {
    int32_t steps;    /* from one renewal to the next; 0: the mask stays */
    int32_t rows;     /* that give up a block in a renewal, the next in turn */
    int32_t task;     /* steps of a task; 0: tasks are not told apart, and no row has a spare block */
    int32_t expanded; /* steps at a task's start in which the last block of each row, its spare, is one of the kept */
    int32_t settled;  /* step of a task from which on nothing is renewed */
} lab_f32_blocks_renewal_t;

/* Blocks of a row that learn in this step: without the spare behind a task's first steps. */
static inline int32_t lab_f32_blocks_awake(const lab_f32_blocks_renewal_t *renewal, int32_t kept,
                                           const lab_training_state_t *state)
{
    const bool whole = renewal->task == 0 || (int32_t)((state->step - 1u) % (uint32_t)renewal->task) < renewal->expanded;
    return whole ? kept : kept - 1;
}

/* The first block from a random one on that a row has not. */
static inline uint8_t lab_f32_blocks_other(int32_t kept, int32_t inputs, const uint8_t *blocks, uint32_t key,
                                           uint32_t index)
{
    uint32_t chosen = lab_random_at(key, index) % (uint32_t)inputs;
    while (lab_f32_blocks_has(kept, blocks, chosen))
        chosen = (chosen + 1u) % (uint32_t)inputs;
    return (uint8_t)chosen;
}

/* A task begins: the spare of each row is a random block that it has not, which begins at zero. */
static inline void lab_f32_blocks_expand(int32_t rows, int32_t kept, int32_t inputs, float *weights, uint8_t *blocks,
                                         lab_training_state_t *state)
{
    const uint32_t key = lab_random_step(&state->random);
    for (int32_t row = 0; row < rows; row++) {
        const int32_t spare = row * kept + kept - 1;
        blocks[spare] = lab_f32_blocks_other(kept, inputs, blocks + row * kept, key, (uint32_t)row);
        memset(weights + LAB_F32_BLOCK * spare, 0, LAB_F32_BLOCK * sizeof *weights);
    }
}

/* Each row gives up its weakest block, whose place its last one takes. */
static inline void lab_f32_blocks_shrink(int32_t rows, int32_t kept, float *weights, uint8_t *blocks)
{
    for (int32_t row = 0; row < rows; row++) {
        const int32_t spare = row * kept + kept - 1;
        const int32_t weakest = row * kept + lab_f32_blocks_weakest(kept, weights + LAB_F32_BLOCK * row * kept);
        const uint8_t given_up = blocks[weakest];
        blocks[weakest] = blocks[spare];
        blocks[spare] = given_up;
        memmove(weights + LAB_F32_BLOCK * weakest, weights + LAB_F32_BLOCK * spare, LAB_F32_BLOCK * sizeof *weights);
        memset(weights + LAB_F32_BLOCK * spare, 0, LAB_F32_BLOCK * sizeof *weights);
    }
}

/* The next rows in turn give up the weakest of their first `awake` blocks for a random other. */
static inline void lab_f32_blocks_exchange(const lab_f32_blocks_renewal_t *renewal, int32_t rows, int32_t kept,
                                           int32_t awake, int32_t inputs, float *weights, uint8_t *blocks,
                                           lab_training_state_t *state)
{
    const uint32_t key = lab_random_step(&state->random);
    uint32_t row = state->step / (uint32_t)renewal->steps * (uint32_t)renewal->rows % (uint32_t)rows;
    for (int32_t turn = 0; turn < renewal->rows; turn++) {
        const int32_t first = (int32_t)row * kept;
        const int32_t weakest = first + lab_f32_blocks_weakest(awake, weights + LAB_F32_BLOCK * first);
        blocks[weakest] = lab_f32_blocks_other(kept, inputs, blocks + first, key, (uint32_t)turn);
        memset(weights + LAB_F32_BLOCK * weakest, 0, LAB_F32_BLOCK * sizeof *weights);
        row = row + 1u < (uint32_t)rows ? row + 1u : 0u;
    }
}

/* The masks behind a step; rows, kept and inputs (blocks) as of lab_f32_blocks_sgd. */
static inline void lab_f32_blocks_renew(const lab_f32_blocks_renewal_t *renewal, int32_t rows, int32_t kept,
                                        int32_t inputs, float *weights, uint8_t *blocks, lab_training_state_t *state)
{
    if (renewal->steps == 0)
        return;
    const int32_t done = renewal->task == 0 ? 0 : (int32_t)(state->step % (uint32_t)renewal->task);
    if (renewal->task != 0 && done == 0) {
        lab_f32_blocks_expand(rows, kept, inputs, weights, blocks, state);
        return;
    }
    if (renewal->task != 0 && done == renewal->expanded)
        lab_f32_blocks_shrink(rows, kept, weights, blocks);
    if (state->step % (uint32_t)renewal->steps == 0u &&
        (renewal->task == 0 || (done > renewal->expanded && done < renewal->settled)))
        lab_f32_blocks_exchange(renewal, rows, kept, renewal->task == 0 ? kept : kept - 1, inputs, weights, blocks,
                                state);
}

#endif
