#include "generator.h"

#include <string.h>

const char *json_value(const char *text, const char *end, const char *field)
{
    size_t length = strlen(field);
    const char *found = memmem(text, (size_t)(end - text), field, length);
    return found ? found + length : NULL;
}

uint64_t json_number(const char *text, const char *end)
{
    uint64_t value = 0;
    for (; text < end && *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (uint64_t)(*text - '0');
    return value;
}

bool starts_with(const char *text, const char *end, const char *prefix)
{
    size_t length = strlen(prefix);
    return (size_t)(end - text) >= length && memcmp(text, prefix, length) == 0;
}

int client_number(const char **text, const char *end)
{
    if (!starts_with(*text, end, "bench-"))
        return UNKNOWN;
    *text += strlen("bench-");
    int number = (int)json_number(*text, end);
    while (*text < end && **text >= '0' && **text <= '9')
        (*text)++;
    return number;
}
