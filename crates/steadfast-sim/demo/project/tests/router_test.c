#include "test.h"

int main(void)
{
    expect_text(expect(200, "GET", "/health", ""), "ok");
    expect(404, "GET", "/nowhere", "");
    return finish("router");
}
