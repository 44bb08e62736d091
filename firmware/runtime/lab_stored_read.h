/* An image of constants that is read as a whole from where a device keeps what it does not run: a file of a process, a
 * card where the board has a driver for one. It is put there when it is first asked for, and from then on read from
 * there. Elsewhere the image is read where it lies, in mapped flash. */
#ifndef LAB_STORED_READ_H
#define LAB_STORED_READ_H

#include <stdint.h>

/* Reads `bytes` of the image that is linked at `stored`. A medium that fails is a crash that says so: nothing else would
 * be in `to`. */
void lab_stored_read(uint8_t *to, const uint8_t *stored, uint32_t bytes);

#endif
