#include "endpoints.h"

/* The sample endpoint, until there are real ones. */
void hello_handle(const struct request *in, struct response *out)
{
    respond(out, 200, "hello from %s", in->path);
}
