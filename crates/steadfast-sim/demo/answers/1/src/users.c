#include <stdio.h>
#include <string.h>

#include "api.h"

#define MAX_USERS 32
#define MAX_NAME 32

static char users[MAX_USERS][MAX_NAME];
static size_t n_users;

static int known(const char *name)
{
    for (size_t i = 0; i < n_users; i++)
        if (strcmp(users[i], name) == 0)
            return 1;
    return 0;
}

static void add(const char *name, struct response *out)
{
    if (name[0] == '\0' || strlen(name) >= MAX_NAME)
        respond(out, 400, "a name has 1 to %d characters", MAX_NAME - 1);
    else if (known(name))
        respond(out, 409, "%s is here already", name);
    else if (n_users == MAX_USERS)
        respond(out, 507, "there is room for %d users", MAX_USERS);
    else {
        snprintf(users[n_users], MAX_NAME, "%s", name);
        n_users++;
        respond(out, 201, "welcome, %s", name);
    }
}

/* GET /users, GET /users/NAME, POST /users with a name as the body. */
void users_handle(const struct request *in, struct response *out)
{
    const char *rest = in->path + strlen("/users");

    if (strcmp(in->method, "POST") == 0)
        add(in->body, out);
    else if (strcmp(in->method, "GET") != 0)
        respond(out, 405, "use GET or POST");
    else if (rest[0] == '\0')
        respond(out, 200, "%lu users", (unsigned long)n_users);
    else if (known(rest + 1))
        respond(out, 200, "%s is here", rest + 1);
    else
        respond(out, 404, "nobody is called %s", rest + 1);
}
