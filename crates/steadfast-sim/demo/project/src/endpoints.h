#ifndef ENDPOINTS_H
#define ENDPOINTS_H

#include "api.h"

/* Each endpoint answers all requests at and below its path. */
void hello_handle(const struct request *in, struct response *out);

#endif
