#include "hosted.h"
#include "port.h"

const lab_port_t lab_port = {
    .board = "linux-x86-64",
    .clock_kind = "monotonic",
    .clock_hz = 1000000000u,
    .blob_store = hosted_blob_store,
    .blob_bytes = HOSTED_BLOB_BYTES,
    .blob_address = 0,
    .stack = lab_stack + HOSTED_GUARD_BYTES / sizeof(uint32_t),
    .stack_bytes = HOSTED_STACK_BYTES,
    .marker = &hosted_marker,
};
