/* Jobs. A new job is one file that defines a job_t function and one line in jobs.c. */
#ifndef LAB_JOB_H
#define LAB_JOB_H

#include "blob.h"
#include "cbor.h"

#include <stdbool.h>
#include <stdint.h>

#define JOB_FLAG_PROFILE 1u
#define JOB_FLAG_SILENT_MARKER 2u /* no frames on the marker line; the marker pin is driven all the same */

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

bool job_infer(const job_parameters_t *job);
bool job_train(const job_parameters_t *job);
bool job_parameters(const job_parameters_t *job);
bool job_restore(const job_parameters_t *job);
bool job_forget(const job_parameters_t *job);

#ifdef LAB_TEST_JOBS
bool job_crash(const job_parameters_t *job);
bool job_hang(const job_parameters_t *job);
bool job_lockup(const job_parameters_t *job);
bool job_overrun(const job_parameters_t *job);
bool job_recurse(const job_parameters_t *job);
bool job_clock(const job_parameters_t *job);
#endif

#endif
