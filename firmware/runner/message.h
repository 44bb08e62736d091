/* Text with numbers in it, for errors: begun, written piece by piece, then read. What does not fit is cut off. */
#ifndef LAB_MESSAGE_H
#define LAB_MESSAGE_H

#include <stdint.h>

void message_begin(const char *text);
void message_text(const char *text);
void message_uint(uint32_t number);
void message_int(int32_t number);

/* The text since message_begin(); valid until the next one. */
const char *message_read(void);

#endif
