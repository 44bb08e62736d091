/* The job `count`: instructions of one pass through each region, as the kernel counts them (docs/wire.md). */
#define _GNU_SOURCE
#include "count.h"

#include "job.h"
#include "lab_model.h"
#include "memory.h"
#include "message.h"
#include "session.h"
#include "training.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CALIBRATION_TRIES 16u

static int counter = -1;
static uint64_t overhead;
static uint64_t begun;

/* ---- the kernel's counter ---- */

uint64_t count_now(void)
{
    uint64_t value;
    return read(counter, &value, sizeof value) == (ssize_t)sizeof value ? value : 0;
}

static void begin(void)
{
    begun = count_now();
}

static uint64_t end(void)
{
    uint64_t counted = count_now() - begun;
    return counted < overhead ? 0 : counted - overhead;
}

bool count_open(void)
{
    struct perf_event_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.type = PERF_TYPE_HARDWARE;
    attributes.size = sizeof attributes;
    attributes.config = PERF_COUNT_HW_INSTRUCTIONS;
    attributes.exclude_kernel = 1;
    attributes.exclude_hv = 1;
    counter = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
    if (counter < 0)
        return false;
    overhead = 0;
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < CALIBRATION_TRIES; i++) {
        begin();
        uint64_t empty = end();
        if (empty < least)
            least = empty;
    }
    overhead = least;
    return true;
}

void count_close(void)
{
    close(counter);
    counter = -1;
}

/* ---- the job ---- */

/* A result, since a metric's float32 has no room for every number of instructions. */
static void send_count(const char *region, uint64_t instructions)
{
    uint8_t bytes[8];
    for (uint32_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(instructions >> (8u * i));
    session_named_result(0, region, bytes, sizeof bytes);
}

static void count_inference(const uint8_t *sample, uint8_t *output)
{
    /* Once to touch every page: what the kernel does for that is not counted, but the restarted access may be. */
    lab_model.infer(sample, output, lab_arena);
    begin();
    lab_model.infer(sample, output, lab_arena);
    send_count("inference", end());
}

static void count_training(const uint8_t *sample, const uint8_t *target, uint8_t *output)
{
    const lab_training_t *training = lab_model.training;
    training_state.step++;
    if (training->learn != NULL) {
        begin();
        training->learn(sample, target, output, lab_arena, &training_state);
        send_count("train.forward", end());
        return;
    }
    begin();
    training->forward(sample, target, output, lab_arena);
    send_count("train.forward", end());
    begin();
    training->backward(sample, target, lab_arena, &training_state);
    send_count("train.backward", end());
    if (training->update != NULL) {
        begin();
        training->update(lab_arena, &training_state);
        send_count("train.update", end());
    }
}

/* The targets of a training job that was checked and run before; NULL where there are none that fit. */
static const uint8_t *first_target(void)
{
    static const char name[] = "targets";
    const cbor_span_t span = {(const uint8_t *)name, sizeof name - 1};
    const lab_training_t *training = lab_model.training;
    const blob_t *blob = blob_find(&span);
    int32_t label = 0;
    if (training == NULL || blob == NULL || blob->total < training->target_bytes)
        return NULL;
    for (uint32_t i = 0; training->target_classes > 0 && i < training->target_bytes / sizeof label; i++) {
        memcpy(&label, blob_data(blob) + i * sizeof label, sizeof label);
        if (label < 0 || (uint32_t)label >= training->target_classes)
            return NULL;
    }
    return blob_data(blob);
}

bool job_count(const job_parameters_t *job)
{
    if (job->blob == NULL || job->blob->total < lab_model.input_bytes) {
        session_error("input", "count", "the blob does not hold a sample");
        return false;
    }
    if (!count_open()) {
        message_begin("perf_event_open: ");
        message_text(strerror(errno));
        session_log(message_read());
        return true;
    }
    const uint8_t *target = first_target();
    if (target != NULL)
        count_training(blob_data(job->blob), target, job_output());
    else
        count_inference(blob_data(job->blob), job_output());
    count_close();
    return true;
}
