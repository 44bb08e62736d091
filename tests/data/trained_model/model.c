/* A hand-written model for tests of training: softmax regression by SGD with momentum 0.5. */
#include "model.h"

#include "lab_model.h"

#include <math.h>
#include <string.h>

#define INPUTS 100
#define CLASSES 3
#define MOMENTUM 0.5f

/* The arena: the error of each class, then the gradient of the weight. */
#define ERROR_FLOATS 4

static const float initial_weight[CLASSES * INPUTS] = {0.5f, -0.25f, 0.125f};
static const float initial_bias[CLASSES] = {0.0f, 0.0f, 0.25f};

static float weight[CLASSES * INPUTS];
static float bias[CLASSES];
static float momentum[CLASSES * INPUTS];

static const char *const layer_names[] = {"linear"};
static const char *const step_names[] = {"linear", "loss", "linear.weight gradient", "sgd"};

static const lab_variable_t variables[] = {
    {"linear.weight", weight, initial_weight, sizeof weight},
    {"linear.bias", bias, initial_bias, sizeof bias},
    {"linear.weight.momentum", momentum, 0, sizeof momentum},
};

static void linear(const float *sample, float *logits)
{
    for (int k = 0; k < CLASSES; k++) {
        logits[k] = bias[k];
        for (int i = 0; i < INPUTS; i++)
            logits[k] += weight[k * INPUTS + i] * sample[i];
    }
}

/* Cross-entropy; error = softmax - one-hot, the gradient of the logits. */
static float loss(const float *logits, int32_t label, float *error)
{
    float most = logits[0];
    float sum = 0.0f;
    for (int k = 1; k < CLASSES; k++)
        most = logits[k] > most ? logits[k] : most;
    for (int k = 0; k < CLASSES; k++) {
        error[k] = expf(logits[k] - most);
        sum += error[k];
    }
    for (int k = 0; k < CLASSES; k++)
        error[k] /= sum;
    float value = -logf(error[label]);
    error[label] -= 1.0f;
    return value;
}

static void weight_gradient(const float *sample, const float *error, float *gradient)
{
    for (int k = 0; k < CLASSES; k++)
        for (int i = 0; i < INPUTS; i++)
            gradient[k * INPUTS + i] = error[k] * sample[i];
}

static void sgd(const float *error, const float *gradient, lab_training_state_t *state)
{
    for (int i = 0; i < CLASSES * INPUTS; i++) {
        momentum[i] = MOMENTUM * momentum[i] + gradient[i];
        weight[i] -= state->learning_rate * momentum[i];
    }
    for (int k = 0; k < CLASSES; k++)
        bias[k] -= state->learning_rate * error[k];
    state->random ^= state->random << 13;
    state->random ^= state->random >> 17;
    state->random ^= state->random << 5;
}

static void infer(const void *input, void *output, uint8_t *arena)
{
    (void)arena;
    linear(input, output);
}

static void infer_profiled(const void *input, void *output, uint8_t *arena, lab_layer_hook hook, void *context)
{
    hook(context, 0, 1);
    infer(input, output, arena);
    hook(context, 0, 0);
}

static float forward(const void *sample, const void *target, void *output, uint8_t *arena)
{
    linear(sample, output);
    return loss(output, *(const int32_t *)target, (float *)(void *)arena);
}

static void backward(const void *sample, const void *target, uint8_t *arena, lab_training_state_t *state)
{
    float *error = (float *)(void *)arena;
    (void)target, (void)state;
    weight_gradient(sample, error, error + ERROR_FLOATS);
}

static void update(uint8_t *arena, lab_training_state_t *state)
{
    float *error = (float *)(void *)arena;
    sgd(error, error + ERROR_FLOATS, state);
}

static float step_profiled(const void *sample, const void *target, void *output, uint8_t *arena,
                           lab_training_state_t *state, lab_layer_hook hook, void *context)
{
    float *error = (float *)(void *)arena;
    hook(context, 0, 1);
    linear(sample, output);
    hook(context, 0, 0);
    hook(context, 1, 1);
    float value = loss(output, *(const int32_t *)target, error);
    hook(context, 1, 0);
    hook(context, 2, 1);
    weight_gradient(sample, error, error + ERROR_FLOATS);
    hook(context, 2, 0);
    hook(context, 3, 1);
    update(arena, state);
    hook(context, 3, 0);
    return value;
}

static const lab_training_t training = {
    .target_bytes = sizeof(int32_t),
    .target_classes = CLASSES,
    .variable_count = sizeof variables / sizeof variables[0],
    .variables = variables,
    .step_count = sizeof step_names / sizeof step_names[0],
    .step_names = step_names,
    .forward = forward,
    .backward = backward,
#ifndef UPDATES_AT_ONCE
    .update = update,
#endif
    .step_profiled = step_profiled,
};

const lab_model_t lab_model = {
    .name = "trained",
    .input_bytes = INPUTS * sizeof(float),
    .output_bytes = CLASSES * sizeof(float),
    .arena_bytes = LAB_MODEL_ARENA_BYTES,
    .layer_count = 1,
    .layer_names = layer_names,
    .infer = infer,
    .infer_profiled = infer_profiled,
    .output_scale = 1.0f,
    .input_scale = 1.0f,
    .input_is_float = 1,
    .output_is_float = 1,
    .training = &training,
};
