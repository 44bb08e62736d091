/* What a hosted board's lab_port refers to. */
#ifndef LAB_HOSTED_H
#define LAB_HOSTED_H

#include <stdint.h>

extern uint32_t lab_stack[];
extern uint8_t hosted_blob_store[];
extern volatile uint32_t hosted_marker;

#define HOSTED_STACK_BYTES (512u * 1024u)
#define HOSTED_BLOB_BYTES (16u * 1024u * 1024u)

#endif
