#!/bin/sh
# How long /metrics, /v1/status, /healthz and the command `status` take with 100 models and 10,000 past sessions (issue: under 5 ms and,
# for the command, under 50 ms). One real session is carried, exported, multiplied, and imported again; then another one asks
# all 100 models, so that each has its series. Needs a release build, curl, git and python3.
#
#   tests/measure-http.sh target/release/steadfast
set -eu
STEADFAST=$(realpath "$1")
DIR=$(mktemp -d)
SIM= DAEMON=
trap 'kill $DAEMON $SIM 2>/dev/null; rm -rf "$DIR"' EXIT
cd "$DIR"
git init -q repo
git -C repo -c user.name=m -c user.email=m@example.org commit -q --allow-empty -m Begin
printf -- '---\nid: %s\n---\n# Measure\n\nAll of it.\n' first >first.md
printf -- '---\nid: %s\n---\n# Measure\n\nAll of it.\n' again >again.md
python3 - <<'PY'
coders = [f"m{n:02}" for n in range(1, 99)]
with open("sim.toml", "w") as script:
    for name in coders[:-1]:
        script.write(f'[[rule]]\nmatch = {{ role = "coder", idea = "again", model = "{name}" }}\nthen = {{ status = 500 }}\n')
open("roles.toml", "w").write(f"coder = {[f'sim/{name}' for name in coders]}\n".replace("'", '"'))
PY
"$STEADFAST" sim --listen 127.0.0.1:0 --script sim.toml >sim.out 2>&1 &
SIM=$!
until grep -q '^listening on' sim.out; do sleep 0.1; done
{
    cat <<TOML
daemon = { state_dir = "$DIR/state", listen = "127.0.0.1:0" }
session.checks_sandbox = "none"
failover = { max_retries = 1, outage_patience = "0s", backoff = { initial = "1ms", max = "1ms" } }
providers.sim = { kind = "openai", base_url = "$(sed -n 's/^listening on //p' sim.out)" }
[roles]
planner = ["sim/plan"]
reviewer = ["sim/review"]
TOML
    cat roles.toml
} >steadfast.toml
run() { "$STEADFAST" "$@" --config steadfast.toml; }
run run first.md --repo repo >/dev/null 2>&1
run store export export.jsonl 2>/dev/null
python3 - <<'PY'
import json, re, zlib
N = 10_000
lines = [json.loads(line) for line in open("export.jsonl")][1:-1]
session = next(line["key"][2:] for line in lines if line["key"].startswith("h/"))
def other(n):
    digits = ""
    for _ in range(6):
        n, digit = divmod(n, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return session[:-6] + digits
many = []
for line in lines:
    text = json.dumps(line, separators=(",", ":"))
    if session not in line["key"]:
        if line["key"] == "m/counts":
            # Unfinished, completed, failed, cancelled: eight bytes each.
            line["payload"] = re.sub("^(.{16}).{16}", lambda m: m[1] + N.to_bytes(8, "little").hex(), line["payload"])
            text = json.dumps(line, separators=(",", ":"))
        many.append((line["key"], text))
        continue
    for n in range(N):
        new = other(n)
        copy = text.replace(session, new).replace(session.encode().hex(), new.encode().hex())
        many.append((json.loads(copy)["key"], copy))
many.sort()
text = '{"steadfast-store":1}\n' + "".join(line + "\n" for _, line in many)
text += json.dumps({"records": len(many), "crc32": f"{zlib.crc32(text.encode()):08x}"}, separators=(",", ":")) + "\n"
open("many.jsonl", "w").write(text)
PY
rm -rf state
run store import many.jsonl >/dev/null
"$STEADFAST" daemon --log warn --config steadfast.toml >daemon.out 2>&1 &
DAEMON=$!
URL=
until [ -n "$URL" ]; do
    sleep 0.2
    URL=$(run status --json 2>/dev/null | sed -n 's/.*"http": "\(.*\)".*/\1/p')
done
run run again.md --repo repo >/dev/null 2>&1
AUTH="Authorization: Bearer $(cat state/token)"
curl -fsS -H "$AUTH" "$URL/metrics" >metrics.txt
echo "$(grep -c '^steadfast_sessions{state="completed"} 1000' metrics.txt) (1: the store holds 10,000), $(grep -c 'steadfast_breaker_opens_total{' metrics.txt) models, $(grep -vc '^#' metrics.txt) series, $(wc -c <metrics.txt) bytes"
# Seconds of CPU that the daemon has used; on a busy machine that says more than the clock on the wall.
cpu() { curl -fsS -H "$AUTH" "$URL/metrics" | sed -n 's/^process_cpu_seconds_total //p'; }
for path in /metrics /v1/status /healthz; do
    # One connection, 200 requests.
    i=0; : >urls
    while [ $i -lt 200 ]; do printf 'url = "%s%s"\noutput = "/dev/null"\n' "$URL" "$path" >>urls; i=$((i + 1)); done
    before=$(cpu)
    curl -fsS -H "$AUTH" -w '%{time_total}\n' -K urls >times
    after=$(cpu)
    sort -n times | awk -v what="$path" -v cpu="$after" -v before="$before" '{ t[NR] = $1 * 1000 }
        END { printf "%s: median %.2f ms, 95 %% %.2f ms, slowest %.2f ms; CPU %.2f ms each\n", what, t[int(NR / 2)], t[int(NR * 0.95)], t[NR], (cpu - before) * 1000 / NR }'
done
python3 - "$STEADFAST" <<'PY'
import subprocess, sys, time
times = []
for _ in range(30):
    begun = time.perf_counter()
    subprocess.run([sys.argv[1], "status", "--json", "--config", "steadfast.toml"], stdout=subprocess.DEVNULL, check=True)
    times.append((time.perf_counter() - begun) * 1000)
times.sort()
print(f"status, the whole command: median {times[15]:.1f} ms, slowest {times[-1]:.1f} ms")
PY
