#include "router.h"

#include <string.h>

#include "endpoints.h"

void route(const struct request *in, struct response *out)
{
    if (strcmp(in->path, "/health") == 0)
        respond(out, 200, "ok");
    else if (strcmp(in->path, "/hello") == 0)
        hello_handle(in, out);
    else
        respond(out, 404, "nothing at %s", in->path);
}
