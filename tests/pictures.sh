#!/usr/bin/env bash
# Makes the pictures of the dashboard in docs/ from a real run: the built program, its simulated models with faults, two
# repositories, five ideas. Wants git and a Chromium; pngquant, where there is one, makes them small.
#
#     cargo build && tests/pictures.sh target/debug/steadfast
set -euo pipefail

program=$(realpath "${1:?usage: tests/pictures.sh PROGRAM [FOLDER]}")
into=$(realpath "${2:-$(dirname "$0")/../docs}")
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || { echo "no Chromium in PATH" >&2; exit 1; }
dir=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$dir"' EXIT
cd "$dir"

cat >sim.toml <<'SCRIPT'
seed = 7
latency = "4s"
jitter = "7s"

[plan]
[[plan.milestones]]
name = "Model and storage"
description = "What is kept, and how."
create = ["src/model.js", "src/store.js", "test/model.test.js"]
[[plan.milestones]]
name = "Create API endpoints"
description = "The routes."
create = ["src/routes/auth.js", "src/routes/users.js", "src/routes/posts.js", "src/middleware/limits.js"]
[[plan.milestones]]
name = "Document and wire up"
description = "The rest."
create = ["docs/api.md", "src/index.js"]

[[rule]]
name = "the planner's first model has a bad minute"
match = { role = "planner", model = "gpt-5-nano", idea = "016-audit-log" }
first = 1
then = { status = 503, delay = "1s" }

[[rule]]
name = "one file cannot be written"
match = { role = "coder", file = "*users.js", idea = "014-api-endpoints" }
then = { status = 400, delay = "1s" }

[[rule]]
name = "a first review asks for a change"
match = { role = "reviewer", milestone = 1, idea = "015-rate-limits" }
first = 1
then = { review = { approved = false, code_quality = 55, issues = [
    { severity = "medium", file = "src/model.js", issue = "An empty name is accepted.", suggestion = "Refuse it." },
] } }

[[rule]]
name = "the first coder is overloaded after a while"
match = { role = "coder", model = "codellama-7b" }
after = 14
then = { status = 503, delay = "2s" }
SCRIPT

export OPENCODE_API_KEY=simulated
"$program" sim --listen 127.0.0.1:0 --script sim.toml >sim.log 2>&1 &
until url=$(grep -o 'http://127.0.0.1:[0-9]*' sim.log | head -1) && [ -n "$url" ]; do sleep .1; done
cat >steadfast.toml <<CONFIG
[daemon]
state_dir = "$dir/state"
listen = "127.0.0.1:0"
[failover]
backoff = { initial = "500ms", max = "2s" }
reset_timeout = "90s"
[providers.opencode]
base_url = "$url/v1"
CONFIG
steadfast() { "$program" "$@" --config steadfast.toml; }
steadfast daemon >daemon.log 2>&1 &
until grep -q ready daemon.log; do sleep .1; done

idea() { # REPOSITORY ID TITLE
    [ -d "$1" ] || { git init -q -b main "$1" && git -C "$1" -c user.name=A -c user.email=a@example.org commit -q --allow-empty -m Begin; }
    printf -- '---\nid: %s\n---\n# %s\n\nSee the plan.\n' "$2" "$3" >"$2.md"
    steadfast submit "$2.md" --repo "$1" >submitted
}
until_it() { # WORDS of a status or an event
    until steadfast sessions --json | grep -q "$1"; do sleep .3; done
}
# The Chrome DevTools Protocol over two pipes: messages of JSON that end with a zero byte.
mkfifo to from
exec 7<>to 8<>from
"$chromium" --headless=new --remote-debugging-pipe --no-sandbox --disable-gpu --hide-scrollbars --no-first-run \
    --user-data-dir="$dir/profile" about:blank 3<to 4>from 2>chromium.log &
n=0 session=
ask() { # METHOD PARAMETERS; the answer is in $reply
    n=$((n + 1))
    printf '{"id":%d,"method":"%s","params":%s%s}\0' "$n" "$1" "$2" "${session:+,\"sessionId\":\"$session\"}" >&7
    while IFS= read -r -d '' reply <&8; do case $reply in "{\"id\":$n,"*) return ;; esac; done
}
field() { reply=${reply#*\"$1\":\"} && reply=${reply%%\"*}; }
picture() { # NAME WIDTH HEIGHT SCHEME
    session=
    ask Target.createTarget '{"url":"about:blank"}' && field targetId
    ask Target.attachToTarget "{\"targetId\":\"$reply\",\"flatten\":true}" && field sessionId && session=$reply
    ask Emulation.setDeviceMetricsOverride "{\"width\":$2,\"height\":$3,\"deviceScaleFactor\":1,\"mobile\":false}"
    ask Emulation.setEmulatedMedia "{\"features\":[{\"name\":\"prefers-color-scheme\",\"value\":\"$4\"}]}"
    ask Page.navigate "{\"url\":\"$(steadfast dashboard --no-open 2>/dev/null)\"}"
    until ask Runtime.evaluate '{"expression":"document.querySelector(\"#conn-text\")?.textContent"}' && [[ $reply == *'"live"'* ]]; do sleep .1; done
    sleep 1 # Its first drawing.
    ask Page.captureScreenshot '{"format":"png"}' && field data
    base64 -d <<<"$reply" >"$into/$1.png"
    if command -v pngquant >/dev/null; then pngquant --force --skip-if-larger --output "$into/$1.png" 128 "$into/$1.png" || true; fi
}

idea shop 013-tidy-routes "Tidy the routes"
until_it '"phase": "completed"'
idea shop 014-api-endpoints "Create the API endpoints"
idea ledger 015-rate-limits "Rate limits for the public API"
idea ledger 016-audit-log "An audit log of every change"
idea shop 017-csv-import "Import bookings from CSV"
until steadfast status | grep -q 'codellama-7b \[OPEN\]'; do sleep .3; done
sleep 3
picture dashboard 1440 1000 light
picture dashboard-dark 1440 1000 dark
picture dashboard-phone 360 780 light
