#!/bin/sh
# Builds the program and every test with a C compiler, and runs the tests. Leaves nothing behind.
set -eu
cd "$(dirname "$0")"
cc=${CC:-cc} # Unquoted below: it may carry options.
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

mkdir "$build/lib"
for source in src/*.c; do
    $cc -std=c99 -Wall -Wextra -c "$source" -o "$build/lib/$(basename "$source" .c).o"
done
$cc "$build"/lib/*.o -o "$build/pinboard"
rm "$build/lib/main.o"

for test in tests/*_test.c; do
    name=$(basename "$test" .c)
    $cc -std=c99 -Wall -Wextra -Isrc "$test" "$build"/lib/*.o -o "$build/$name"
    "$build/$name"
done
"$build/pinboard" GET /health
echo "all checks passed"
