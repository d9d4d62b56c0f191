#!/bin/sh
# Fuzzes the HTTP API of a real daemon with schemathesis, from the description that it serves itself: every operation, and
# chains of them (submit, then show, cancel, retry, resume). Needs schemathesis 4 (pip install schemathesis, in a venv), curl,
# git and python3; nothing outside this machine is spoken to.
#
#   tests/fuzz-http.sh target/release/steadfast [schemathesis] [examples per operation]
#
# Ends with 0 when there was no 500 and every answer was as described, and the daemon was still well afterwards.
set -eu
STEADFAST=$(realpath "$1")
SCHEMATHESIS=${2:-schemathesis}
EXAMPLES=${3:-200}
DIR=$(mktemp -d)
trap 'kill $DAEMON $SIM 2>/dev/null; rm -rf "$DIR"' EXIT
cd "$DIR"
SIM= DAEMON=
git init -q repo
git -C repo -c user.name=fuzz -c user.email=fuzz@example.org commit -q --allow-empty -m Begin
"$STEADFAST" sim --listen 127.0.0.1:0 >sim.out 2>&1 &
SIM=$!
until grep -q '^listening on' sim.out; do sleep 0.1; done
cat >steadfast.toml <<TOML
daemon = { state_dir = "$DIR/state", listen = "127.0.0.1:0" }
session.checks_sandbox = "none"
failover = { outage_patience = "0s", backoff = { initial = "1ms", max = "2ms" } }
roles = { planner = ["sim/plan"], coder = ["sim/one", "sim/two"], reviewer = ["sim/review"] }
providers.sim = { kind = "openai", base_url = "$(sed -n 's/^listening on //p' sim.out)" }
TOML
"$STEADFAST" daemon --config steadfast.toml >daemon.out 2>&1 &
DAEMON=$!
URL=
until [ -n "$URL" ]; do
    sleep 0.2
    URL=$("$STEADFAST" status --json --config steadfast.toml 2>/dev/null | sed -n 's/.*"http": "\(.*\)".*/\1/p')
done
TOKEN=$(cat state/token)
curl -fsS -H "Authorization: Bearer $TOKEN" "$URL/v1/openapi.json" >openapi.json
# What is meant to be valid must make sense, else nothing is ever submitted; what is meant to be wrong is made all the same.
python3 - "$DIR/repo" <<'PY'
import json, sys
api = json.load(open("openapi.json"))
body = api["components"]["schemas"]["SubmitBody"]["properties"]
body["repo"] = {"const": sys.argv[1]}
body["idea"] = {"type": "string", "pattern": "^# [a-z]{1,9}\n\n[a-z]{1,99}$"}
body["fileStem"] = {"type": "string", "pattern": "^[a-z]{1,3}$"}
json.dump(api, open("openapi.json", "w"))
PY
# The stream of events has no end; tests/http_api.rs reads it.
"$SCHEMATHESIS" run openapi.json --url "$URL" -H "Authorization: Bearer $TOKEN" --exclude-path /v1/events \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method \
    --phases coverage,fuzzing,stateful --max-examples "$EXAMPLES" --request-timeout 30 --workers 2
curl -fsS -H "Authorization: Bearer $TOKEN" "$URL/healthz"
echo
curl -fsS -H "Authorization: Bearer $TOKEN" "$URL/metrics" | grep '^steadfast_sessions\|^steadfast_actor'
if grep -i panicked daemon.out; then exit 1; fi
