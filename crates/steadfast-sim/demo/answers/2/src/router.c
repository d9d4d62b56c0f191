#include "router.h"

#include <stddef.h>
#include <string.h>

#include "endpoints.h"

static void health_handle(const struct request *in, struct response *out)
{
    (void)in;
    respond(out, 200, "ok");
}

static const struct {
    const char *prefix;
    handler *handle;
} routes[] = {
    {"/health", health_handle},
    {"/auth", auth_handle},
    {"/users", users_handle},
    {"/posts", posts_handle},
};

/* At the prefix itself, or below it: "/posts" and "/posts/1", and not "/postscript". */
static int below(const char *path, const char *prefix)
{
    size_t length = strlen(prefix);

    return strncmp(path, prefix, length) == 0 && (path[length] == '\0' || path[length] == '/');
}

void route(const struct request *in, struct response *out)
{
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (!below(in->path, routes[i].prefix))
            continue;
        if (routes[i].handle == NULL)
            respond(out, 501, "%s is not there yet", routes[i].prefix);
        else
            routes[i].handle(in, out);
        return;
    }
    respond(out, 404, "nothing at %s", in->path);
}
