#include "test.h"

int main(void)
{
    expect_text(expect(200, "GET", "/health", ""), "ok");
    expect(404, "GET", "/nowhere", "");
    expect(404, "GET", "", "");

    /* A prefix ends at a slash or at the end of the path. */
    expect(404, "GET", "/postscript", "");
    expect(404, "GET", "/authority", "");
    expect(200, "GET", "/posts", "");

    /* The sample endpoint is gone. */
    expect(404, "GET", "/hello", "");
    return finish("router");
}
