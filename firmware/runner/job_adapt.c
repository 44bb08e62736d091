/*
 * adapt: a stream of `count` samples, in order, by a network that changes with what it sees.
 *
 * With `always` every step adapts: forward (region `inference`), then backward and update (region `adapt`). Without it
 * the device adapts on demand: a moving average of the outputs' entropy is watched at every inference; where it has left
 * its base by more than `threshold`, the next `cached` samples are kept, and the network is adapted to them (region
 * `adapt`): the nearest of the source states is taken, then each sample is a step of training.
 * Every stream begins with the values as compiled.
 */
#include "detector.h"
#include "job.h"
#include "lab_model.h"
#include "memory.h"
#include "message.h"
#include "region.h"
#include "session.h"
#include "training.h"

#include <float.h>
#include <stddef.h>
#include <string.h>

#define INFERENCE "inference"
#define ADAPT "adapt"

typedef struct {
    uint32_t cached;   /* samples that are adapted to */
    uint32_t compared; /* how many of them are looked at to choose a source state */
    uint32_t classes;  /* the output's first values are the logits of so many */
    float affine;      /* rate of a second pass over the samples, with target 1; 0 for none */
    detector_settings_t detector;
} settings_t;

typedef struct {
    const uint8_t *bytes; /* states one after another: signature, then every variable */
    uint32_t states;
} pool_t;

/* Models that adapt take no labels: their target is 0, and 1 in a second pass over the samples that were kept. */
static const float no_target[4];
static const float second_pass[4] = {1.0f, 1.0f, 1.0f, 1.0f};

/* ---- what is refused before anything runs ---- */

static bool read_share(const job_parameters_t *job, const char *name, float most, float *value)
{
    float given = -1.0f;
    /* Also false for what is not a number. */
    if (cbor_get_float(&job->parameters, name, &given) && given >= 0.0f && given <= most) {
        *value = given;
        return true;
    }
    return job_refuse_text(name, "it must be given, finite and in its range");
}

static bool read_affine(const job_parameters_t *job, settings_t *settings)
{
    float given;
    /* Without it there is no second pass. */
    return !cbor_get_float(&job->parameters, "affine", &given) ||
           read_share(job, "affine", FLT_MAX, &settings->affine);
}

static uint32_t floats_of_output(void)
{
    return lab_model.output_bytes / (uint32_t)sizeof(float);
}

static bool read_settings(const job_parameters_t *job, settings_t *settings)
{
    detector_settings_t *detector = &settings->detector;
    return job_read_count(job, "classes", 2, floats_of_output(), &settings->classes) &&
           job_read_count(job, "cached", 1, UINT16_MAX, &settings->cached) &&
           job_read_count(job, "compared", 1, settings->cached, &settings->compared) &&
           job_read_count(job, "settle", 1, UINT32_MAX - 1u, &detector->settle) &&
           read_share(job, "weight", 1.0f, &detector->weight) &&
           read_share(job, "threshold", FLT_MAX, &detector->threshold) && read_affine(job, settings);
}

static uint32_t state_bytes(uint32_t classes)
{
    uint32_t bytes = (floats_of_output() - classes) * (uint32_t)sizeof(float);
    for (uint32_t i = 0; i < lab_model.training->variable_count; i++)
        bytes += lab_model.training->variables[i].bytes;
    return bytes;
}

static bool find_pool(const settings_t *settings, pool_t *pool)
{
    static const cbor_span_t name = {(const uint8_t *)"pool", sizeof "pool" - 1u};
    const blob_t *blob = blob_find(&name);
    uint32_t each = state_bytes(settings->classes);
    if (blob == NULL || blob->total == 0 || blob->total % each != 0) {
        message_begin("the source states have ");
        message_uint(blob == NULL ? 0 : blob->total);
        message_text(" bytes; at least one of ");
        message_uint(each);
        message_text(" bytes is needed");
        return job_refuse("pool");
    }
    *pool = (pool_t){blob_data(blob), blob->total / each};
    return true;
}

static bool model_adapts(void)
{
    if (!training_is_there("adapt"))
        return false;
    if (lab_model.output_bytes > (uint32_t)(job_output() - job_scratch()))
        return job_refuse_text("adapt", "the outputs of the model in this image are longer than its steps are many");
    if (lab_model.training->target_classes != 0 || lab_model.training->target_bytes > sizeof no_target ||
        !lab_model.output_is_float)
        return job_refuse_text("adapt", "the model in this image needs labels, or its outputs are no floats");
    if (lab_model.training->learn != NULL)
        return job_refuse_text("adapt", "the model in this image learns on the way forward");
    return true;
}

static bool samples_are_there(const job_parameters_t *job)
{
    if (job->blob != NULL && job->count > 0 && job->blob->total == (uint64_t)job->count * lab_model.input_bytes)
        return true;
    return job_refuse_text("samples", "the blob does not hold exactly so many samples");
}

/* ---- adapting ---- */

static const uint8_t *sample_at(const job_parameters_t *job, uint32_t index)
{
    return blob_data(job->blob) + (size_t)index * lab_model.input_bytes;
}

static bool is_finite(float value)
{
    return value >= -FLT_MAX && value <= FLT_MAX;
}

static bool refuse_loss(uint32_t index)
{
    message_begin("sample ");
    message_uint(index);
    message_text(": the loss is no finite number");
    session_error("nan", ADAPT, message_read());
    return false;
}

static void change(const uint8_t *sample, const float *target)
{
    lab_model.training->backward(sample, target, lab_arena, &training_state);
    if (lab_model.training->update != NULL)
        lab_model.training->update(lab_arena, &training_state);
}

static void report(const job_parameters_t *job, const char *region, uint32_t index, region_times_t times)
{
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_marks(times);
    session_event(region, index, times.begin, times.end);
}

static void report_output(const job_parameters_t *job, uint32_t index, region_times_t times, const uint8_t *output)
{
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_marks(times);
    session_event_with_result(INFERENCE, index, times.begin, times.end, output, lab_model.output_bytes);
}

static bool adapt_always(const job_parameters_t *job, uint8_t *output)
{
    for (uint32_t i = 0; i < job->count; i++) {
        const uint8_t *sample = sample_at(job, i);
        training_state.step++;
        region_begin(INFERENCE);
        float loss = lab_model.training->forward(sample, no_target, output, lab_arena);
        region_times_t times = region_end();
        /* The arena holds what backward needs: what is sent lies outside it. */
        report_output(job, i, times, output);
        if (!is_finite(loss))
            return refuse_loss(i);
        region_begin(ADAPT);
        change(sample, no_target);
        report(job, ADAPT, i, region_end());
    }
    return true;
}

static void load_state(const uint8_t *state, uint32_t signature_bytes)
{
    state += signature_bytes;
    for (uint32_t i = 0; i < lab_model.training->variable_count; i++) {
        memcpy(lab_model.training->variables[i].data, state, lab_model.training->variables[i].bytes);
        state += lab_model.training->variables[i].bytes;
    }
}

/* The squared distance of a state's signature to the sums of `compared` signatures. */
static float distance_to(const uint8_t *state, const float *sums, uint32_t values, uint32_t compared)
{
    float total = 0.0f;
    for (uint32_t i = 0; i < values; i++) {
        float own;
        memcpy(&own, state + (size_t)i * sizeof own, sizeof own);
        float apart = own - sums[i] / (float)compared;
        total += apart * apart;
    }
    return total;
}

/* Signatures are those of the first state, so that they do not depend on what was adapted to before. The sums lie where
 * other jobs keep the times of steps. */
static uint32_t nearest_state(const job_parameters_t *job, const settings_t *settings, const pool_t *pool,
                              uint32_t first, uint8_t *output)
{
    uint32_t values = floats_of_output() - settings->classes;
    uint32_t each = state_bytes(settings->classes);
    uint32_t nearest = 0;
    if (pool->states == 1)
        return 0;
    const float *outputs = (const float *)(const void *)output;
    float *sums = (float *)(void *)job_scratch();
    memset(sums, 0, values * sizeof *sums);
    load_state(pool->bytes, values * (uint32_t)sizeof(float));
    for (uint32_t i = 0; i < settings->compared; i++) {
        lab_model.infer(sample_at(job, first + i), output, lab_arena);
        for (uint32_t k = 0; k < values; k++)
            sums[k] += outputs[settings->classes + k];
    }
    float least = distance_to(pool->bytes, sums, values, settings->compared);
    for (uint32_t i = 1; i < pool->states; i++) {
        float distance = distance_to(pool->bytes + (size_t)i * each, sums, values, settings->compared);
        if (distance < least) {
            least = distance;
            nearest = i;
        }
    }
    return nearest;
}

/* A step of training for each kept sample. Without a rate the k-th counts 1 / (k + 1): the source state weighs as much
 * as one sample, and all are averaged alike. */
static bool learn(const job_parameters_t *job, const settings_t *settings, uint32_t first, float rate,
                  const float *target, uint8_t *output)
{
    for (uint32_t i = 0; i < settings->cached; i++) {
        const uint8_t *sample = sample_at(job, first + i);
        training_state.step++;
        training_state.learning_rate = rate > 0.0f ? rate : 1.0f / (float)(i + 2u);
        if (!is_finite(lab_model.training->forward(sample, target, output, lab_arena)))
            return false;
        change(sample, target);
    }
    return true;
}

static bool adapt_to(const job_parameters_t *job, const settings_t *settings, const pool_t *pool, uint32_t first,
                     uint32_t index, uint8_t *output)
{
    uint32_t each = state_bytes(settings->classes);
    uint32_t values = floats_of_output() - settings->classes;
    region_begin(ADAPT);
    uint32_t state = nearest_state(job, settings, pool, first, output);
    load_state(pool->bytes + (size_t)state * each, values * (uint32_t)sizeof(float));
    bool is_good = learn(job, settings, first, 0.0f, no_target, output) &&
                   (settings->affine <= 0.0f || learn(job, settings, first, settings->affine, second_pass, output));
    report(job, ADAPT, index, region_end());
    if (!is_good)
        return refuse_loss(index);
    session_metric("adapt.state", (float)state);
    return true;
}

static bool adapt_on_demand(const job_parameters_t *job, const settings_t *settings, const pool_t *pool, uint8_t *output)
{
    detector_t detector = {0};
    uint32_t kept = 0; /* samples since the trigger */
    bool is_caching = false;
    for (uint32_t i = 0; i < job->count; i++) {
        bool has_left;
        region_begin(INFERENCE);
        lab_model.infer(sample_at(job, i), output, lab_arena);
        has_left = detector_sees(&detector, &settings->detector, (const float *)(const void *)output, settings->classes);
        region_times_t times = region_end();
        report_output(job, i, times, output);
        if (is_caching) {
            kept++;
            if (kept < settings->cached)
                continue;
            if (!adapt_to(job, settings, pool, i + 1u - kept, i, output))
                return false;
            is_caching = false;
            detector_restart(&detector);
        } else if (has_left) {
            is_caching = true;
            kept = 0;
        }
    }
    return true;
}

bool job_adapt(const job_parameters_t *job)
{
    settings_t settings = {0};
    pool_t pool = {0};
    uint64_t always = 0;
    float rate = 0.0f;
    cbor_get_uint(&job->parameters, "always", &always);
    if (!model_adapts() || !samples_are_there(job))
        return false;
    if (job->warmup > 0 || job->repeats != 1)
        return job_refuse_text("adapt", "a stream has no warm-up and runs once: every pass may change the variables");
    if (always != 0 ? !read_share(job, "lr", FLT_MAX, &rate)
                    : !read_settings(job, &settings) || !find_pool(&settings, &pool))
        return false;
    training_init();
    training_state.learning_rate = rate;
    uint8_t *output = job_output();
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_idle_mark();
    job_quiet(job, 0);
    if (always != 0 ? !adapt_always(job, output) : !adapt_on_demand(job, &settings, &pool, output))
        return false;
    job_quiet(job, 1);
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_idle_mark();
    return true;
}
