/*
 * switch: `count` samples, each for one of the networks that the model holds; the blob `networks` has a byte for each
 * that says which. Where it is not the one that is ready, it is made ready (region `switch`); then it answers (region
 * `inference`). At the begin of the job none is ready: what an earlier job has left saves nothing.
 */
#include "job.h"
#include "lab_model.h"
#include "memory.h"
#include "message.h"
#include "region.h"
#include "session.h"

#include <stddef.h>

#define SWITCH "switch"
#define INFERENCE "inference"

static const blob_t *find_networks(void)
{
    static const cbor_span_t name = {(const uint8_t *)"networks", sizeof "networks" - 1u};
    return blob_find(&name);
}

/* Everything that is wrong is said before anything runs. */
static bool order_is_valid(const blob_t *order, uint32_t count)
{
    if (order == NULL || order->total < count)
        return job_refuse_text("networks", "the blob does not name a network for each sample");
    for (uint32_t i = 0; i < count; i++) {
        if (blob_data(order)[i] < lab_model.network_count)
            continue;
        message_begin("sample ");
        message_uint(i);
        message_text(" is for network ");
        message_uint(blob_data(order)[i]);
        message_text("; the model holds ");
        message_uint(lab_model.network_count);
        return job_refuse("networks");
    }
    return true;
}

static void report(const job_parameters_t *job, uint32_t index, region_times_t times, const uint8_t *output)
{
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_marks(times);
    if (output == NULL)
        session_event(SWITCH, index, times.begin, times.end);
    else
        session_event_with_result(INFERENCE, index, times.begin, times.end, output, lab_model.output_bytes);
}

static void answer_all(const job_parameters_t *job, const uint8_t *order)
{
    uint8_t *output = job_output();
    for (uint32_t i = 0; i < job->count; i++) {
        if (i == 0 || order[i] != order[i - 1u]) {
            region_begin(SWITCH);
            lab_model.load(order[i]);
            report(job, i, region_end(), NULL);
        }
        region_begin(INFERENCE);
        lab_model.infer(blob_data(job->blob) + (size_t)i * lab_model.input_bytes, output, lab_arena);
        report(job, i, region_end(), output);
    }
}

bool job_switch(const job_parameters_t *job)
{
    const blob_t *order = find_networks();
    if (lab_model.load == NULL)
        return job_refuse_text("switch", "the model in this image holds one network");
    if (job->blob == NULL || job->count == 0 || job->blob->total != (uint64_t)job->count * lab_model.input_bytes)
        return job_refuse_text("samples", "the blob does not hold exactly so many samples");
    if (job->warmup > 0 || job->repeats != 1)
        return job_refuse_text("switch", "samples go by once and in order, without a warm-up");
    if (!order_is_valid(order, job->count))
        return false;
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_idle_mark();
    job_quiet(job, 0);
    answer_all(job, blob_data(order));
    job_quiet(job, 1);
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_idle_mark();
    return true;
}
