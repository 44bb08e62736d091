/* Images of constants in files: beside the program, so on the storage that the device runs from. A file has lost its name
 * by the time it is read, and goes with the process. */
#define _GNU_SOURCE
#include "lab_stored_read.h"
#include "port.h"
#include "session.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MOST_IMAGES 16u

static struct {
    const uint8_t *stored;
    int file;
} images[MOST_IMAGES];

static void fail(const char *why)
{
    static const session_fault_t nothing = {NULL, NULL, 0, NULL, 0};
    session_crash("crash", why, &nothing);
    port_reset();
}

static int made(const uint8_t *stored, uint32_t bytes)
{
    char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - sizeof ".XXXXXX");
    if (length < 0)
        fail("an image of constants has no place: /proc/self/exe cannot be read");
    snprintf(path + length, sizeof ".XXXXXX", ".XXXXXX");
    int file = mkostemp(path, O_CLOEXEC);
    if (file < 0)
        fail("an image of constants has no place: no file can be made beside the program");
    unlink(path);
    for (uint32_t done = 0; done < bytes;) {
        ssize_t count = write(file, stored + done, bytes - done);
        if (count <= 0)
            fail("an image of constants cannot be written beside the program");
        done += (uint32_t)count;
    }
    if (fsync(file) != 0)
        fail("an image of constants cannot be written beside the program");
    return file;
}

static int file_of(const uint8_t *stored, uint32_t bytes)
{
    for (uint32_t i = 0; i < MOST_IMAGES; i++) {
        if (images[i].stored == stored)
            return images[i].file;
        if (images[i].stored == NULL) {
            images[i].file = made(stored, bytes);
            images[i].stored = stored;
            return images[i].file;
        }
    }
    fail("there are more images of constants than files for them");
    return -1;
}

void lab_stored_read(uint8_t *to, const uint8_t *stored, uint32_t bytes)
{
    int file = file_of(stored, bytes);
    /* What the kernel still holds of it would come from memory. */
    (void)posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    for (uint32_t done = 0; done < bytes;) {
        ssize_t count = pread(file, to + done, bytes - done, (off_t)done);
        if (count <= 0)
            fail("an image of constants cannot be read");
        done += (uint32_t)count;
    }
}
