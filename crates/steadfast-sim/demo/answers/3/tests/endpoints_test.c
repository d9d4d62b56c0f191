#include "test.h"

static void accounts_are_checked(void)
{
    expect_text(expect(200, "POST", "/auth", "demo:correct horse"), "welcome, demo");
    expect(401, "POST", "/auth", "demo:correct");
    expect(401, "POST", "/auth", "nobody:correct horse");
    expect(400, "POST", "/auth", "demo");
    expect(405, "GET", "/auth", "");
}

static void posts_are_pinned_and_shown(void)
{
    char long_text[300];

    expect_text(expect(200, "GET", "/posts", ""), "0 posts");
    expect_text(expect(201, "POST", "/posts", "the cat is fed"), "pinned as 1");
    expect_text(expect(200, "GET", "/posts/1", ""), "the cat is fed");
    expect(404, "GET", "/posts/2", "");
    expect(400, "GET", "/posts/one", "");
    expect(400, "POST", "/posts", "");
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    expect(400, "POST", "/posts", long_text);
    expect_text(expect(200, "GET", "/posts", ""), "1 posts");
}

/* An endpoint that is not there yet says so, and nothing else. */
static void users_are_kept_or_not_there_yet(void)
{
    struct request in = {"GET", "/users", ""};
    struct response out = {0, ""};

    route(&in, &out);
    if (out.status == 501) {
        expect(501, "POST", "/users", "ann");
        return;
    }
    expect_text(out, "0 users");
    expect(201, "POST", "/users", "ann");
    expect(409, "POST", "/users", "ann");
    expect_text(expect(200, "GET", "/users/ann", ""), "ann is here");
    expect(404, "GET", "/users/bob", "");
}

int main(void)
{
    accounts_are_checked();
    posts_are_pinned_and_shown();
    users_are_kept_or_not_there_yet();
    return finish("endpoints");
}
