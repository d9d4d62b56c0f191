#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api.h"

#define MAX_POSTS 64
#define MAX_TEXT 200

static char posts[MAX_POSTS][MAX_TEXT];
static size_t n_posts;

static void pin(const char *text, struct response *out)
{
    if (text[0] == '\0' || strlen(text) >= MAX_TEXT)
        respond(out, 400, "a post has 1 to %d characters", MAX_TEXT - 1);
    else if (n_posts == MAX_POSTS)
        respond(out, 507, "the board holds %d posts", MAX_POSTS);
    else {
        snprintf(posts[n_posts], MAX_TEXT, "%s", text);
        n_posts++;
        respond(out, 201, "pinned as %lu", (unsigned long)n_posts);
    }
}

static void show(const char *number, struct response *out)
{
    char *end;
    unsigned long n = strtoul(number, &end, 10);

    if (number[0] < '0' || number[0] > '9' || *end != '\0')
        respond(out, 400, "a post has a number");
    else if (n == 0 || n > n_posts)
        respond(out, 404, "there is no post %lu", n);
    else
        respond(out, 200, "%s", posts[n - 1]);
}

/* GET /posts, GET /posts/N, POST /posts with a text as the body. */
void posts_handle(const struct request *in, struct response *out)
{
    const char *rest = in->path + strlen("/posts");

    if (strcmp(in->method, "POST") == 0)
        pin(in->body, out);
    else if (strcmp(in->method, "GET") != 0)
        respond(out, 405, "use GET or POST");
    else if (rest[0] == '\0')
        respond(out, 200, "%lu posts", (unsigned long)n_posts);
    else
        show(rest + 1, out);
}
