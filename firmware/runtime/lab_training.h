/* The border between generated training code and whoever calls it. */
#ifndef LAB_TRAINING_H
#define LAB_TRAINING_H

#include <stdint.h>

/* Called by a profiled schedule before (edge = 1) and after (edge = 0) layer, or step of training, `layer`. */
typedef void (*lab_layer_hook)(void *context, uint32_t layer, uint32_t edge);

/* What changes from step to step besides the variables. Handed to every kernel that updates. */
typedef struct {
    float learning_rate;
    uint32_t step;   /* steps begun, from 1 in the first one: bias correction of Adam */
    uint32_t random; /* xorshift32 state for stochastic rounding; never 0 */
} lab_training_state_t;

/* A parameter or a tensor of the optimiser: lies in RAM and outlives a step. */
typedef struct {
    const char *name; /* PyTorch's name; with ".momentum", ".exp_avg" … for the optimiser's */
    void *data;
    const void *initial; /* in flash; a null pointer where it starts at zero */
    uint32_t bytes;
} lab_variable_t;

typedef struct {
    uint32_t target_bytes; /* labels (int32) or regression targets (float) of one step */
    uint32_t target_classes; /* labels must be below this; 0 where the target is no label */
    uint32_t variable_count;
    const lab_variable_t *variables;
    uint32_t step_count; /* steps of forward, backward and update together */
    const char *const *step_names;
    /* One training step is forward, backward, update, in one arena that is left alone in between. `sample` has
     * lab_model.input_bytes. forward() yields the loss and the model's outputs (lab_model.output_bytes). */
    float (*forward)(const void *sample, const void *target, void *output, uint8_t *arena);
    void (*backward)(const void *sample, const void *target, uint8_t *arena, lab_training_state_t *state);
    void (*update)(uint8_t *arena, lab_training_state_t *state); /* null where every gradient is consumed at once */
    /* forward, backward and update with `hook` called around every one of the `step_count` steps; yields the loss. */
    float (*step_profiled)(const void *sample, const void *target, void *output, uint8_t *arena,
                           lab_training_state_t *state, lab_layer_hook hook, void *context);
    /* A whole step of a model that learns on the way forward: each layer changes before the next one runs, and nothing
     * is kept for a backward pass; or of one that learns by many forward passes with perturbed variables. Yields the
     * loss before the step and the outputs. Where it is there, forward, backward and update are null pointers; in all
     * other models it is one. */
    float (*learn)(const void *sample, const void *target, void *output, uint8_t *arena, lab_training_state_t *state);
} lab_training_t;

/* Sets every variable to what it was compiled with. */
void lab_training_reset(const lab_training_t *training);

#endif
