/* The blob store of blob_store.ld, as the initializers of lab_port want it. */
#ifndef LAB_BLOB_STORE_H
#define LAB_BLOB_STORE_H

#include <stdint.h>

extern uint8_t lab_blob_store[];
extern uint8_t lab_blob_store_bytes[]; /* its address is the size */

#define BLOB_STORE_BYTES ((uint32_t)(uintptr_t)lab_blob_store_bytes)
#define BLOB_STORE_ADDRESS ((uint32_t)(uintptr_t)lab_blob_store)

#endif
