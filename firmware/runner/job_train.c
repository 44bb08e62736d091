/*
 * train: steps of training over the blob's samples and their targets, `count` of them, `repeats` times.
 *
 * Every step is measured as three regions; train.update is left out where the model consumes each gradient at once.
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

typedef struct {
    const uint8_t *samples;
    const uint8_t *targets;
    const uint8_t *order; /* a uint16 for each step; NULL: the order in which the samples lie */
} material_t;

static uint32_t sample_at(const job_parameters_t *job, const material_t *material, uint32_t step)
{
    uint16_t index;
    if (material->order == NULL)
        return step % job->count;
    memcpy(&index, material->order + (size_t)step * sizeof index, sizeof index);
    return index;
}

/* ---- what is refused before anything is trained ---- */

static bool refuse(const char *place)
{
    session_error("input", place, message_read());
    return false;
}

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
    refuse(place);
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
            return refuse("targets");
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
            return refuse("order");
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
        return refuse("train");
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

static bool read_settings(const job_parameters_t *job)
{
    uint64_t seed = training_state.random;
    float rate = -1.0f;
    cbor_get_float(&job->parameters, "lr", &rate);
    cbor_get_uint(&job->parameters, "seed", &seed);
    /* Also false for what is not a number. */
    if (!(rate >= 0.0f && rate <= FLT_MAX)) {
        message_begin("the learning rate 'lr' must be given, finite and not below 0");
        return refuse("train");
    }
    if (seed == 0 || seed > UINT32_MAX) {
        message_begin("'seed' must be from 1 to 4294967295");
        return refuse("train");
    }
    if (job->warmup > 0) {
        message_begin("training has no warm-up: every pass changes the variables");
        return refuse("train");
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

/* False after having said which step failed where: nothing is updated with a loss that is no number. */
static bool loss_is_finite(float loss, uint32_t step, uint32_t sample)
{
    if (loss >= -FLT_MAX && loss <= FLT_MAX)
        return true;
    message_begin("step ");
    message_uint(step);
    message_text(", sample ");
    message_uint(sample);
    message_text(": the loss is ");
    message_text(loss > 0.0f ? "infinite" : loss < 0.0f ? "minus infinite" : "not a number");
    session_error("nan", FORWARD, message_read());
    training_state.step--;
    return false;
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
    float loss = training->forward(sample, target, output, lab_arena);
    times = region_end();
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_marks(times);
    session_event_with_metric(FORWARD, step, times.begin, times.end, "loss", loss);
    if (!loss_is_finite(loss, step, index))
        return false;

    region_begin(BACKWARD);
    training->backward(sample, target, lab_arena, &training_state);
    report(job, BACKWARD, step, region_end());

    if (training->update != NULL) {
        region_begin(UPDATE);
        training->update(lab_arena, &training_state);
        report(job, UPDATE, step, region_end());
    }
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
    if (!training_is_there("train") || !find_material(job, &material) || !read_settings(job))
        return false;
    uint8_t *output = job_output();
    send_idle_mark(job);
    region_quiet(job->quiet_us);
    for (uint32_t step = 0; step < job->count * job->repeats; step++)
        if (!train_step(job, &material, step, output))
            return false;
    region_quiet(job->quiet_us);
    send_idle_mark(job);
    if (job->flags & JOB_FLAG_PROFILE)
        profile_step(&material, output);
    return true;
}
