#ifndef ROUTER_H
#define ROUTER_H

#include "api.h"

/* Finds the endpoint for the path and lets it answer; 404 when there is none. */
void route(const struct request *in, struct response *out);

#endif
