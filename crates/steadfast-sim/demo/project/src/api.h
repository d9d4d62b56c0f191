#ifndef API_H
#define API_H

/* What a client asks for. No part is ever NULL; the body may be empty. */
struct request {
    const char *method;
    const char *path;
    const char *body;
};

/* What it is told: a status as in HTTP, and a text. */
struct response {
    int status;
    char text[256];
};

/* Fills a response; a text that is too long is cut. */
void respond(struct response *out, int status, const char *format, ...);

#endif
