#ifndef ENDPOINTS_H
#define ENDPOINTS_H

#include "api.h"

/*
 * Each endpoint answers all requests at and below its path. The build takes every file in src/, so an endpoint is there
 * when its file is; for one that is not, its handler is NULL.
 */
typedef void handler(const struct request *in, struct response *out);

#if __has_include("auth.c")
handler auth_handle;
#else
#define auth_handle NULL
#endif

#if __has_include("users.c")
handler users_handle;
#else
#define users_handle NULL
#endif

#if __has_include("posts.c")
handler posts_handle;
#else
#define posts_handle NULL
#endif

#endif
