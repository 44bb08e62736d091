/* Which build an image is. */
#ifndef LAB_BUILD_ID_H
#define LAB_BUILD_ID_H

#define BUILD_ID_BYTES 16u

/* Hexadecimal digits and a zero. A file of its own: nothing else is compiled anew for another build id. */
extern const char lab_build_id[BUILD_ID_BYTES + 1u];

#endif
