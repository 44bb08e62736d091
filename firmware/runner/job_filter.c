/*
 * filter: a piece of a stream, `count` samples in order; those that the entropy filter takes are sent back whole.
 *
 * Each sample is an inference with its entropy (region `inference`); its output is sent as in the job `infer`, and the
 * sample itself as a result named `upload` where a host is to adapt the network to it. The filter goes on from piece to
 * piece: thresholds and mean are the device's own. What the host makes of the samples comes with the job `restore`.
 */
#include "detector.h"
#include "entropy_filter.h"
#include "job.h"
#include "lab_model.h"
#include "memory.h"
#include "message.h"
#include "region.h"
#include "session.h"

#include <float.h>
#include <stddef.h>

#define INFERENCE "inference"
#define UPLOAD "upload"

static entropy_filter_t filter;

/* ---- what is refused before anything runs ---- */

static bool read_nats(const job_parameters_t *job, const char *name, float *value)
{
    float given = -1.0f;
    /* Also false for what is not a number. */
    if (!cbor_get_float(&job->parameters, name, &given) || !(given >= 0.0f && given <= FLT_MAX))
        return job_refuse_text(name, "it must be given, finite and not below 0");
    *value = given;
    return true;
}

static bool read_settings(const job_parameters_t *job, entropy_filter_settings_t *settings, uint32_t *classes)
{
    if (!lab_model.output_is_float)
        return job_refuse_text("filter", "the outputs of the model in this image are no floats");
    return job_read_count(job, "classes", 2, lab_model.output_bytes / (uint32_t)sizeof(float), classes) &&
           job_read_count(job, "settle", 0, UINT32_MAX, &settings->settle) && read_nats(job, "low", &settings->low) &&
           read_nats(job, "high", &settings->high) && read_nats(job, "shrink", &settings->shrink);
}

static bool piece_is_valid(const job_parameters_t *job)
{
    if (job->warmup > 0 || job->repeats != 1)
        return job_refuse_text("filter", "a stream has no warm-up and runs once: every sample counts in the mean entropy");
    if (job->blob == NULL || job->count == 0 || job->blob->total != (uint64_t)job->count * lab_model.input_bytes)
        return job_refuse_text("samples", "the blob does not hold exactly so many samples");
    return true;
}

/* ---- the stream ---- */

static bool refuse_entropy(uint32_t index)
{
    message_begin("sample ");
    message_uint(index);
    message_text(": its entropy is no finite number");
    session_error("nan", INFERENCE, message_read());
    return false;
}

static bool see(const job_parameters_t *job, const entropy_filter_settings_t *settings, uint32_t classes, uint32_t index)
{
    uint8_t *output = job_output();
    const uint8_t *sample = blob_data(job->blob) + (size_t)index * lab_model.input_bytes;
    region_begin(INFERENCE);
    lab_model.infer(sample, output, lab_arena);
    float entropy = softmax_entropy((const float *)(const void *)output, classes);
    bool is_finite = entropy >= -FLT_MAX && entropy <= FLT_MAX;
    bool is_taken = is_finite && entropy_filter_takes(&filter, settings, entropy);
    region_times_t times = region_end();
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_marks(times);
    session_event_with_result(INFERENCE, index, times.begin, times.end, output, lab_model.output_bytes);
    if (!is_finite)
        return refuse_entropy(index);
    if (is_taken)
        session_named_result(index, UPLOAD, sample, lab_model.input_bytes);
    return true;
}

bool job_filter(const job_parameters_t *job)
{
    entropy_filter_settings_t settings = {0};
    uint64_t begin = 0;
    uint32_t classes;
    if (!piece_is_valid(job) || !read_settings(job, &settings, &classes))
        return false;
    if (cbor_get_uint(&job->parameters, "begin", &begin) && begin != 0)
        filter = (entropy_filter_t){0};
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_idle_mark();
    job_quiet(job, 0);
    for (uint32_t i = 0; i < job->count; i++)
        if (!see(job, &settings, classes, i))
            return false;
    job_quiet(job, 1);
    if (!(job->flags & JOB_FLAG_SILENT_MARKER))
        region_send_idle_mark();
    session_metric("filter.high", entropy_filter_high(&filter, &settings));
    return true;
}
