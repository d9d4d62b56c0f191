#ifndef TEST_H
#define TEST_H

#include <stdio.h>
#include <string.h>

#include "router.h"

static int failures;

/* Makes a request and compares the status. */
static inline struct response expect(int status, const char *method, const char *path, const char *body)
{
    struct request in = {method, path, body};
    struct response out = {0, ""};

    route(&in, &out);
    if (out.status != status) {
        printf("FAILED: %s %s gave %d (%s) instead of %d\n", method, path, out.status, out.text, status);
        failures++;
    }
    return out;
}

static inline void expect_text(struct response out, const char *part)
{
    if (strstr(out.text, part) == NULL) {
        printf("FAILED: \"%s\" is not in \"%s\"\n", part, out.text);
        failures++;
    }
}

/* The end of each test's main. */
static inline int finish(const char *name)
{
    printf("%s: %s\n", name, failures ? "failed" : "passed");
    return failures ? 1 : 0;
}

#endif
