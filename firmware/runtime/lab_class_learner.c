#include "lab_class_learner.h"

#include "lab_f32_axpy.h"
#include "lab_random.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* At the begin of the arena: both stay where they are until the step has ended. */
typedef struct {
    const void *samples;
    const void *targets;
} step_t;

static float *floats_at(uint8_t *arena, uint32_t offset)
{
    return (float *)(void *)(arena + offset);
}

static const int8_t *latent_at(const lab_class_learner_t *learner, const uint8_t *arena, uint32_t shot)
{
    return (const int8_t *)arena + learner->latents_at + (size_t)shot * learner->codec.elements;
}

static const uint8_t *sample_at(const lab_class_learner_t *learner, const void *samples, uint32_t shot)
{
    return (const uint8_t *)samples + (size_t)shot * learner->sample_bytes;
}

static uint32_t label_at(const void *targets, uint32_t shot)
{
    int32_t label;
    memcpy(&label, (const uint8_t *)targets + (size_t)shot * sizeof label, sizeof label);
    return (uint32_t)label;
}

/* ---- the classifier ---- */

/* What the classifier sees: the latent, or what attentive units make of it. */
static uint32_t width_of(const lab_class_learner_t *learner)
{
    return learner->units == NULL ? learner->codec.elements : learner->units->outputs;
}

static float *attending_at(const lab_class_learner_t *learner, uint8_t *arena)
{
    return floats_at(arena, learner->attending_at) + learner->units->outputs;
}

static const float *features_of(const lab_class_learner_t *learner, const float *latent, uint8_t *arena)
{
    if (learner->units == NULL)
        return latent;
    return lab_attentive_forward(learner->units, latent, attending_at(learner, arena));
}

/* Rows of inputs that are zero are never read, nor written below: sparse latents save work as well as room. */
static void logits_of(const lab_class_learner_t *learner, const float *features, float *logits)
{
    uint32_t width = width_of(learner);
    memcpy(logits, learner->bias, learner->classes * sizeof *logits);
    for (uint32_t i = 0; i < width; i++)
        if (features[i] != 0.0f)
            lab_f32_axpy(learner->weight + (size_t)i * learner->classes, logits, (int32_t)learner->classes,
                         features[i]);
}

/* Cross-entropy of logits; makes its gradient of them, times `share`. */
static float error_of(float *logits, uint32_t classes, uint32_t label, float share)
{
    float most = logits[0];
    float sum = 0.0f;
    for (uint32_t i = 1; i < classes; i++)
        most = logits[i] > most ? logits[i] : most;
    float own = logits[label] - most;
    for (uint32_t i = 0; i < classes; i++) {
        logits[i] = expf(logits[i] - most);
        sum += logits[i];
    }
    for (uint32_t i = 0; i < classes; i++)
        logits[i] = share * (logits[i] / sum - (i == label ? 1.0f : 0.0f));
    return logf(sum) - own;
}

static void descend(const lab_class_learner_t *learner, const float *features, const float *error, float rate)
{
    uint32_t width = width_of(learner);
    for (uint32_t i = 0; i < width; i++)
        if (features[i] != 0.0f)
            lab_f32_axpy(error, learner->weight + (size_t)i * learner->classes, (int32_t)learner->classes,
                         -rate * features[i]);
    lab_f32_axpy(error, learner->bias, (int32_t)learner->classes, -rate);
}

/* The units' gradient is by the classifier that made the error, so it is taken before that changes. */
static void learn(const lab_class_learner_t *learner, const float *latent, const float *error, const float *features,
                  uint8_t *arena, float rate)
{
    if (learner->units == NULL) {
        descend(learner, features, error, rate);
        return;
    }
    float *gradient = floats_at(arena, learner->attending_at);
    for (uint32_t i = 0; i < learner->units->outputs; i++) {
        const float *row = learner->weight + (size_t)i * learner->classes;
        gradient[i] = 0.0f;
        for (uint32_t class = 0; class < learner->classes; class++)
            gradient[i] += row[class] * error[class];
    }
    descend(learner, features, error, rate);
    lab_attentive_descend(learner->units, latent, attending_at(learner, arena), gradient, rate);
}

/* The nearest mean m has the largest z·m - |m|²/2. */
static void average(const lab_class_learner_t *learner, const float *latent, uint32_t label)
{
    float length = 0.0f;
    learner->counts[label]++;
    for (uint32_t i = 0; i < learner->codec.elements; i++) {
        float *mean = learner->weight + (size_t)i * learner->classes + label;
        *mean += (latent[i] - *mean) / (float)learner->counts[label];
        length += *mean * *mean;
    }
    learner->bias[label] = -0.5f * length;
}

/* ---- the store ---- */

static uint32_t start_of(const lab_class_learner_t *learner, uint32_t item)
{
    return item == 0 ? 0 : (uint32_t)learner->ends[item - 1u];
}

static void keep(const lab_class_learner_t *learner, const int8_t *latent, const uint8_t *sample, uint32_t label)
{
    lab_learner_store_t *store = learner->store;
    uint32_t used = (uint32_t)store->bytes;
    uint32_t bytes = learner->method == LAB_LEARN_SAMPLES ? learner->sample_bytes
                                                          : lab_latent_packed_bytes(&learner->codec, latent);
    if ((uint32_t)store->items == learner->capacity || bytes > learner->pool_bytes - used) {
        store->dropped++;
        return;
    }
    if (learner->method == LAB_LEARN_SAMPLES)
        memcpy(learner->pool + used, sample, bytes);
    else
        lab_latent_encode(&learner->codec, latent, learner->pool + used);
    learner->ends[store->items] = (int32_t)(used + bytes);
    learner->labels[store->items] = (uint8_t)label;
    store->bytes = (int32_t)(used + bytes);
    store->items++;
}

/* The latent of an item of the store, or of one of this step's samples behind them, and its label. */
static uint32_t fetch(const lab_class_learner_t *learner, uint32_t item, uint8_t *arena, float *latent)
{
    const step_t *step = (const step_t *)(const void *)arena;
    uint32_t stored = (uint32_t)learner->store->items;
    if (item >= stored) {
        lab_latent_widen(&learner->codec, latent_at(learner, arena, item - stored), latent);
        return label_at(step->targets, item - stored);
    }
    const uint8_t *packed = learner->pool + start_of(learner, item);
    if (learner->method == LAB_LEARN_SAMPLES) {
        learner->extract(packed, arena + learner->again_at, arena + learner->extractor_at);
        lab_latent_widen(&learner->codec, (const int8_t *)arena + learner->again_at, latent);
    } else {
        lab_latent_decode(&learner->codec, packed, latent);
    }
    return learner->labels[item];
}

static void shuffle(uint16_t *order, uint32_t count, uint32_t *random)
{
    for (uint32_t i = 0; i < count; i++)
        order[i] = (uint16_t)i;
    for (uint32_t i = count - 1u; i > 0; i--) {
        uint32_t other = lab_random_step(random) % (i + 1u);
        uint16_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

/* A step of plain gradient descent on a batch: all errors are of the same classifier. */
static void rehearse_batch(const lab_class_learner_t *learner, const uint16_t *items, uint32_t count, uint8_t *arena,
                           float rate)
{
    float *decoded = floats_at(arena, learner->decoded_at);
    float *errors = floats_at(arena, learner->errors_at);
    uint32_t elements = learner->codec.elements;
    for (uint32_t i = 0; i < count; i++) {
        float *error = errors + (size_t)i * learner->classes;
        uint32_t label = fetch(learner, items[i], arena, decoded + (size_t)i * elements);
        logits_of(learner, decoded + (size_t)i * elements, error);
        error_of(error, learner->classes, label, 1.0f / (float)count);
    }
    for (uint32_t i = 0; i < count; i++)
        descend(learner, decoded + (size_t)i * elements, errors + (size_t)i * learner->classes, rate);
}

/* ---- a step ---- */

void lab_learner_extract(const lab_class_learner_t *learner, const void *samples, uint8_t *arena)
{
    for (uint32_t i = 0; i < learner->shots; i++)
        learner->extract(sample_at(learner, samples, i),
                         arena + learner->latents_at + (size_t)i * learner->codec.elements,
                         arena + learner->extractor_at);
}

void lab_learner_classify(const lab_class_learner_t *learner, void *output, uint8_t *arena)
{
    float *latent = floats_at(arena, learner->decoded_at);
    for (uint32_t i = 0; i < learner->shots; i++) {
        lab_latent_widen(&learner->codec, latent_at(learner, arena, i), latent);
        logits_of(learner, features_of(learner, latent, arena), (float *)output + (size_t)i * learner->classes);
    }
}

void lab_learner_infer(const lab_class_learner_t *learner, const void *samples, void *output, uint8_t *arena)
{
    lab_learner_extract(learner, samples, arena);
    lab_learner_classify(learner, output, arena);
}

float lab_learner_judge(const lab_class_learner_t *learner, const void *samples, const void *targets, void *output,
                        uint8_t *arena)
{
    float *error = floats_at(arena, learner->errors_at);
    float loss = 0.0f;
    lab_learner_classify(learner, output, arena);
    for (uint32_t i = 0; i < learner->shots; i++) {
        memcpy(error, (const float *)output + (size_t)i * learner->classes, learner->classes * sizeof *error);
        loss += error_of(error, learner->classes, label_at(targets, i), 1.0f);
    }
    *(step_t *)(void *)arena = (step_t){samples, targets};
    return loss / (float)learner->shots;
}

float lab_learner_forward(const lab_class_learner_t *learner, const void *samples, const void *targets, void *output,
                          uint8_t *arena)
{
    lab_learner_extract(learner, samples, arena);
    return lab_learner_judge(learner, samples, targets, output, arena);
}

void lab_learner_backward(const lab_class_learner_t *learner, const void *targets, uint8_t *arena,
                          lab_training_state_t *state)
{
    float *latent = floats_at(arena, learner->decoded_at);
    float *error = floats_at(arena, learner->errors_at);
    for (uint32_t i = 0; i < learner->shots; i++) {
        uint32_t label = label_at(targets, i);
        lab_latent_widen(&learner->codec, latent_at(learner, arena, i), latent);
        if (learner->method == LAB_LEARN_MEANS) {
            average(learner, latent, label);
            continue;
        }
        const float *features = features_of(learner, latent, arena);
        logits_of(learner, features, error);
        error_of(error, learner->classes, label, 1.0f);
        learn(learner, latent, error, features, arena, state->learning_rate);
    }
}

void lab_learner_update(const lab_class_learner_t *learner, uint8_t *arena, lab_training_state_t *state)
{
    const step_t *step = (const step_t *)(const void *)arena;
    uint16_t *order = (uint16_t *)(void *)(arena + learner->order_at);
    if (learner->store == NULL)
        return;
    uint32_t count = (uint32_t)learner->store->items + learner->shots;
    for (uint32_t epoch = 0; epoch < learner->epochs; epoch++) {
        shuffle(order, count, &state->random);
        for (uint32_t at = 0; at < count; at += learner->batch) {
            uint32_t some = count - at < learner->batch ? count - at : learner->batch;
            rehearse_batch(learner, order + at, some, arena, state->learning_rate);
        }
    }
    for (uint32_t i = 0; i < learner->shots; i++)
        keep(learner, latent_at(learner, arena, i), sample_at(learner, step->samples, i), label_at(step->targets, i));
}
