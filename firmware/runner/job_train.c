/*
 * train: steps of training over the blob's samples and their targets, `count` of them, `repeats` times.
 *
 * Every step is measured as three regions; train.update is left out where the model consumes each gradient at once, and
 * of a model that learns on the way forward there is train.forward alone.
 * With a `window` so many whole steps are one region, `repeats` times.
 */
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

#define FORWARD "train.forward"
#define BACKWARD "train.backward"
#define UPDATE "train.update"
#define STEP "train.step"

typedef struct {
    const uint8_t *samples;
    const uint8_t *targets;
    const uint8_t *order; /* a uint16 for each step; NULL: the order in which the samples lie */
} material_t;

typedef struct {
    uint32_t steps; /* 0: the regions of each step are measured by themselves */
    bool forward_only;
} window_t;

static uint32_t sample_at(const job_parameters_t *job, const material_t *material, uint32_t step)
{
    uint16_t index;
    if (material->order == NULL)
        return step % job->count;
    memcpy(&index, material->order + (size_t)step * sizeof index, sizeof index);
    return index;
}

/* ---- what is refused before anything is trained ---- */

/* The data of a blob of exactly `count` pieces of `bytes`; NULL after having refused any other. */
static const uint8_t *data_of(const blob_t *blob, const char *place, uint32_t count, uint32_t bytes)
{
    if (blob != NULL && blob->total == (uint64_t)count * bytes)
        return blob_data(blob);
    if (blob == NULL) {
        message_begin("there is no such blob, or it is incomplete");
    } else {
        message_begin("the blob has ");
        message_uint(blob->total);
        message_text(" bytes; ");
        message_uint(count);
        message_text(" times ");
        message_uint(bytes);
        message_text(" are needed");
    }
    job_refuse(place);
    return NULL;
}

static const blob_t *find_blob(const char *name)
{
    cbor_span_t span = {(const uint8_t *)name, strlen(name)};
    return blob_find(&span);
}

static bool labels_are_valid(const material_t *material, uint32_t count)
{
    const lab_training_t *training = lab_model.training;
    uint32_t labels_each = training->target_bytes / (uint32_t)sizeof(int32_t);
    for (uint32_t i = 0; training->target_classes > 0 && i < count * labels_each; i++) {
        int32_t label;
        memcpy(&label, material->targets + (size_t)i * sizeof label, sizeof label);
        if (label < 0 || (uint32_t)label >= training->target_classes) {
            message_begin("sample ");
            message_uint(i / labels_each);
            message_text(" has label ");
            message_int(label);
            message_text("; labels go from 0 to ");
            message_uint(training->target_classes - 1u);
            return job_refuse("targets");
        }
    }
    return true;
}

static bool order_is_valid(const job_parameters_t *job, const material_t *material)
{
    for (uint32_t step = 0; material->order != NULL && step < job->count * job->repeats; step++) {
        uint32_t sample = sample_at(job, material, step);
        if (sample >= job->count) {
            message_begin("step ");
            message_uint(step);
            message_text(" asks for sample ");
            message_uint(sample);
            message_text(" of ");
            message_uint(job->count);
            return job_refuse("order");
        }
    }
    return true;
}

static bool find_material(const job_parameters_t *job, material_t *material)
{
    uint64_t ordered = 0;
    uint64_t steps = (uint64_t)job->count * job->repeats;
    if (steps == 0 || steps > UINT32_MAX) {
        message_begin("the number of samples times that of epochs must be from 1 to 4294967295");
        return job_refuse("train");
    }
    cbor_get_uint(&job->parameters, "order", &ordered);
    *material = (material_t){.order = NULL};
    material->samples = data_of(job->blob, "samples", job->count, lab_model.input_bytes);
    if (material->samples == NULL)
        return false;
    material->targets = data_of(find_blob("targets"), "targets", job->count, lab_model.training->target_bytes);
    if (material->targets == NULL || !labels_are_valid(material, job->count))
        return false;
    if (ordered == 0)
        return true;
    material->order = data_of(find_blob("order"), "order", (uint32_t)steps, sizeof(uint16_t));
    return material->order != NULL && order_is_valid(job, material);
}

/* How many steps share a region, and whether they are forwards alone, which change no variable. */
static bool read_window(const job_parameters_t *job, const material_t *material, window_t *window)
{
    uint64_t forward = 0;
    if (!job_window(job, &window->steps))
        return false;
    cbor_get_uint(&job->parameters, "forward", &forward);
    window->forward_only = forward != 0;
    if (forward != 0 && lab_model.training->learn != NULL) {
        message_begin("the model learns on the way forward: it has no forward that changes nothing");
        return job_refuse("forward");
    }
    if (forward != 0 && window->steps == 0) {
        message_begin("'forward' measures forwards alone and needs a 'window' of them");
        return job_refuse("forward");
    }
    if (material->order != NULL && window->steps > 0) {
        message_begin("steps that share a window take the samples as they lie: no 'order'");
        return job_refuse("order");
    }
    return true;
}

static bool read_settings(const job_parameters_t *job)
{
    uint64_t seed = training_state.random;
    float rate = -1.0f;
    cbor_get_float(&job->parameters, "lr", &rate);
    cbor_get_uint(&job->parameters, "seed", &seed);
    /* Also false for what is not a number. */
    if (!(rate >= 0.0f && rate <= FLT_MAX)) {
        message_begin("the learning rate 'lr' must be given, finite and not below 0");
        return job_refuse("train");
    }
    if (seed == 0 || seed > UINT32_MAX) {
        message_begin("'seed' must be from 1 to 4294967295");
        return job_refuse("train");
    }
    if (job->warmup > 0) {
        message_begin("training has no warm-up: every pass changes the variables");
        return job_refuse("train");
    }
    training_state.learning_rate = rate;
    training_state.random = (uint32_t)seed;
    return true;
}

/* ---- training ---- */

static void send_idle_mark(const job_parameters_t *job)
{
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_idle_mark();
}

/* Sent as soon as a region has ended: a meter needs to see the marker low between two regions. */
static void report(const job_parameters_t *job, const char *region, uint32_t step, region_times_t times)
{
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_marks(times);
    session_event(region, step, times.begin, times.end);
}

static bool is_finite(float loss)
{
    return loss >= -FLT_MAX && loss <= FLT_MAX;
}

/* Says which step failed where: nothing is updated with a loss that is no number. */
static bool refuse_loss(float loss, uint32_t step, uint32_t sample)
{
    message_begin("step ");
    message_uint(step);
    message_text(", sample ");
    message_uint(sample);
    message_text(": the loss is ");
    message_text(loss > 0.0f ? "infinite" : loss < 0.0f ? "minus infinite" : "not a number");
    session_error("nan", FORWARD, message_read());
    return false;
}

/* The first region of a step, which is all of it where the model learns on the way. */
static float go_forward(const uint8_t *sample, const uint8_t *target, uint8_t *output)
{
    const lab_training_t *training = lab_model.training;
    if (training->learn != NULL)
        return training->learn(sample, target, output, lab_arena, &training_state);
    return training->forward(sample, target, output, lab_arena);
}

static void go_backward(const uint8_t *sample, const uint8_t *target)
{
    const lab_training_t *training = lab_model.training;
    if (training->backward != NULL)
        training->backward(sample, target, lab_arena, &training_state);
    if (training->update != NULL)
        training->update(lab_arena, &training_state);
}

static bool train_step(const job_parameters_t *job, const material_t *material, uint32_t step, uint8_t *output)
{
    const lab_training_t *training = lab_model.training;
    uint32_t index = sample_at(job, material, step);
    const uint8_t *sample = material->samples + (size_t)index * lab_model.input_bytes;
    const uint8_t *target = material->targets + (size_t)index * training->target_bytes;
    region_times_t times;

    training_state.step++;
    region_begin(FORWARD);
    float loss = go_forward(sample, target, output);
    times = region_end();
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_marks(times);
    session_event_with_metric(FORWARD, step, times.begin, times.end, "loss", loss);
    if (!is_finite(loss)) {
        training_state.step--;
        return refuse_loss(loss, step, index);
    }

    if (training->backward != NULL) {
        region_begin(BACKWARD);
        training->backward(sample, target, lab_arena, &training_state);
        report(job, BACKWARD, step, region_end());
    }
    if (training->update != NULL) {
        region_begin(UPDATE);
        training->update(lab_arena, &training_state);
        report(job, UPDATE, step, region_end());
    }
    return true;
}

/* Steps (or forwards alone) one after another, nothing sent between them; the first loss that is no number ends it. */
static bool run_window(const job_parameters_t *job, const material_t *material, const window_t *window, uint32_t index,
                       uint8_t *output)
{
    const lab_training_t *training = lab_model.training;
    const char *region = window->forward_only ? FORWARD : STEP;
    uint32_t step = 0;
    uint32_t at = 0;
    float loss = 0.0f;
    region_begin(region);
    while (step < window->steps) {
        const uint8_t *sample = material->samples + (size_t)at * lab_model.input_bytes;
        const uint8_t *target = material->targets + (size_t)at * training->target_bytes;
        /* Kernels may ask for the number of the step they are in, which a step without a finite loss has not. */
        training_state.step += !window->forward_only;
        loss = go_forward(sample, target, output);
        if (!is_finite(loss)) {
            training_state.step -= !window->forward_only;
            break;
        }
        if (!window->forward_only)
            go_backward(sample, target);
        step++;
        at = at + 1 < job->count ? at + 1 : 0;
    }
    region_times_t times = region_end();
    if (step < window->steps)
        return refuse_loss(loss, step, at);
    job_report_window(job, region, index, times, window->steps);
    return true;
}

static bool train_all(const job_parameters_t *job, const material_t *material, const window_t *window, uint8_t *output)
{
    for (uint32_t i = 0; window->steps > 0 && i < job->repeats; i++)
        if (!run_window(job, material, window, i, output))
            return false;
    for (uint32_t step = 0; window->steps == 0 && step < job->count * job->repeats; step++)
        if (!train_step(job, material, step, output))
            return false;
    return true;
}

/* One more step on the first sample, each of its parts timed. */
static void profile_step(const material_t *material, uint8_t *output)
{
    const lab_training_t *training = lab_model.training;
    region_times_t *times = (region_times_t *)(void *)job_scratch();
    training_state.step++;
    training->step_profiled(material->samples, material->targets, output, lab_arena, &training_state,
                            region_layer_hook, times);
    for (uint32_t i = 0; i < training->step_count; i++)
        session_event("train.layer", i, times[i].begin, times[i].end);
}

bool job_train(const job_parameters_t *job)
{
    material_t material;
    window_t window;
    if (!training_is_there("train") || !find_material(job, &material) || !read_window(job, &material, &window) ||
        !read_settings(job))
        return false;
    uint8_t *output = job_output();
    send_idle_mark(job);
    job_quiet(job, 0);
    if (!train_all(job, &material, &window, output))
        return false;
    job_quiet(job, 1);
    send_idle_mark(job);
    if (job->flags & JOB_FLAG_PROFILE)
        profile_step(&material, output);
    return true;
}
