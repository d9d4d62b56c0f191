#include <stdio.h>

#include "router.h"

/* pinboard METHOD PATH [BODY]: one request; prints the status and the text. */
int main(int argc, char **argv)
{
    struct request in = {"", "", ""};
    struct response out = {0, ""};

    if (argc < 3) {
        fprintf(stderr, "usage: %s METHOD PATH [BODY]\n", argv[0]);
        return 2;
    }
    in.method = argv[1];
    in.path = argv[2];
    if (argc > 3)
        in.body = argv[3];
    route(&in, &out);
    printf("%d %s\n", out.status, out.text);
    return out.status < 400 ? 0 : 1;
}
