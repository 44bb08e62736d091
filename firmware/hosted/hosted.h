/* What a hosted board's lab_port refers to. */
#ifndef LAB_HOSTED_H
#define LAB_HOSTED_H

#include <stdint.h>

extern uint32_t lab_stack[];
extern uint8_t hosted_blob_store[];
extern volatile uint32_t hosted_marker;

/* The lowest part of lab_stack is never mapped for access; 64 KiB is the largest page size in use. */
#define HOSTED_GUARD_BYTES (64u * 1024u)
#ifdef __SANITIZE_THREAD__
/* The sanitizer keeps almost a megabyte of its own on each thread's stack. */
#define HOSTED_STACK_BYTES (2u * 1024u * 1024u)
#else
#define HOSTED_STACK_BYTES (512u * 1024u)
#endif
/* More where the build says so: a checkpoint of the model's variables must fit (lab/build.py). */
#ifndef HOSTED_BLOB_BYTES
#define HOSTED_BLOB_BYTES (16u * 1024u * 1024u)
#endif

#endif
