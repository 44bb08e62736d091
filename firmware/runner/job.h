/* Jobs. A new job is one file that defines a job_t function and one line in jobs.c. */
#ifndef LAB_JOB_H
#define LAB_JOB_H

#include "blob.h"
#include "cbor.h"
#include "message.h"
#include "region.h"
#include "session.h"

#include <stdbool.h>
#include <stdint.h>

#define JOB_FLAG_PROFILE 1u
#define JOB_FLAG_SILENT_MARKER 2u /* no frames on the marker line; the marker pin is driven all the same */
#define JOB_FLAG_SLEEP 4u         /* the core sleeps while the job is quiet, where the board can */

typedef struct {
    cbor_map_t parameters; /* the whole `run` message, for parameters by name */
    const blob_t *blob;    /* NULL if the named blob is absent or incomplete */
    uint32_t count;
    uint32_t warmup;
    uint32_t repeats;
    uint32_t flags;
    uint32_t quiet_us;
} job_parameters_t;

/* Returns true when done, false after having sent an error. */
typedef bool (*job_function_t)(const job_parameters_t *job);

/* The job of this name, or NULL. */
job_function_t job_find(const cbor_span_t *name);

/* Bytes at the end of the blob store that jobs use for outputs and layer times; blobs do not get them. */
uint32_t job_scratch_bytes(void);

/* The scratch memory; 16-byte aligned. */
uint8_t *job_scratch(void);

/* The part of the scratch memory that takes the model's output. */
uint8_t *job_output(void);

/* The quiet before the first region (`index` 0) and after the last (1); reported as region `idle` where it was slept. */
void job_quiet(const job_parameters_t *job, uint32_t index);

/* Passes that share one region, from the parameter `window`; 0 where each has its own. False after having refused it. */
bool job_window(const job_parameters_t *job, uint32_t *passes);

/* Refuse an input, at a place, with the message that was begun; false, which compilers are to see. */
static inline bool job_refuse(const char *place)
{
    session_error("input", place, message_read());
    return false;
}

/* The same with a text of its own. */
static inline bool job_refuse_text(const char *place, const char *text)
{
    message_begin(text);
    return job_refuse(place);
}

/* A parameter that has to be given, from `least` to `most`. False after having refused it. */
bool job_read_count(const job_parameters_t *job, const char *name, uint32_t least, uint32_t most, uint32_t *value);

/* A region over many passes has ended: marks and event. */
void job_report_window(const job_parameters_t *job, const char *region, uint32_t index, region_times_t times,
                       uint32_t passes);

bool job_infer(const job_parameters_t *job);
bool job_train(const job_parameters_t *job);
bool job_adapt(const job_parameters_t *job);
bool job_switch(const job_parameters_t *job);
bool job_filter(const job_parameters_t *job);
bool job_parameters(const job_parameters_t *job);
bool job_restore(const job_parameters_t *job);
bool job_forget(const job_parameters_t *job);

#ifdef LAB_COUNT_JOB
bool job_count(const job_parameters_t *job);
#endif

#ifdef LAB_PEAKS
bool job_peaks(const job_parameters_t *job);
#endif

#ifdef LAB_TEST_JOBS
bool job_crash(const job_parameters_t *job);
bool job_hang(const job_parameters_t *job);
bool job_lockup(const job_parameters_t *job);
bool job_overrun(const job_parameters_t *job);
bool job_recurse(const job_parameters_t *job);
bool job_clock(const job_parameters_t *job);
#endif

#endif
