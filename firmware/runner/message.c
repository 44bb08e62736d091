#include "message.h"

#include <stddef.h>

/* Leaves room for the other keys of an error frame many times over. */
#define MESSAGE_CHARACTERS 159u

static char message[MESSAGE_CHARACTERS + 1u];
static size_t length;

static void put(char character)
{
    if (length < MESSAGE_CHARACTERS)
        message[length++] = character;
    message[length] = 0;
}

void message_begin(const char *text)
{
    length = 0;
    message[0] = 0;
    message_text(text);
}

void message_text(const char *text)
{
    while (*text != 0)
        put(*text++);
}

void message_uint(uint32_t number)
{
    char digits[10];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + number % 10u);
        number /= 10u;
    } while (number > 0);
    while (count > 0)
        put(digits[--count]);
}

void message_int(int32_t number)
{
    if (number < 0)
        put('-');
    message_uint(number < 0 ? 0u - (uint32_t)number : (uint32_t)number);
}

const char *message_read(void)
{
    return message;
}
