#include "api.h"

#include <stdarg.h>
#include <stdio.h>

void respond(struct response *out, int status, const char *format, ...)
{
    va_list values;

    out->status = status;
    va_start(values, format);
    vsnprintf(out->text, sizeof out->text, format, values);
    va_end(values);
}
