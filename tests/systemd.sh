#!/bin/bash
# The whole life of the service under a real systemd, in a container of its own (systemd-nspawn, no network but loopback).
# As root:
#
#     cargo build && tests/systemd.sh [TREE]
#
# TREE is a folder with a Debian that has systemd, dbus, git and bubblewrap; where it is missing it is made with mmdebstrap
# (a minute, 250 MB). Another program than target/debug/steadfast is named by PROGRAM=; it must be built with debug
# assertions, for the supervisor is made to hang (STEADFAST_TEST_FAULT). Prints a line for each step and ends with 1 when
# one has failed.
set -u

HERE=$(cd "$(dirname "$0")/.." && pwd)
TREE=${1:-$HERE/target/systemd-tree}
PROGRAM=${PROGRAM:-${CARGO_TARGET_DIR:-$HERE/target}/debug/steadfast}
FAILED=0

for tool in systemd-nspawn nsenter; do
    command -v $tool >/dev/null || { echo "skipped: there is no $tool (apt-get install systemd-container)"; exit 0; }
done
[ -x "$PROGRAM" ] || { echo "error: there is no program $PROGRAM: build it, or name it with PROGRAM="; exit 2; }
if [ ! -d "$TREE" ]; then
    mmdebstrap --variant=minbase --include=systemd,systemd-sysv,dbus,libpam-systemd,git,bubblewrap bookworm "$TREE" || exit 2
fi

# --- the container ---------------------------------------------------------------------------------------------------

LOG=$(mktemp)
setsid systemd-nspawn --boot -D "$TREE" -M "steadfast-$$" --register=no --keep-unit --private-network --console=pipe \
    >"$LOG" 2>&1 </dev/null &
NSPAWN=$!
INIT=
for _ in $(seq 100); do
    INIT=$(pgrep -P $NSPAWN | head -1)
    [ -n "$INIT" ] && nsenter -t "$INIT" -a systemctl is-system-running --wait >/dev/null 2>&1 && break
    sleep 0.3
done
[ -n "$INIT" ] || { echo "error: the container did not start"; cat "$LOG"; exit 2; }
# c COMMAND…: in the container, as root. s ARGS…: the program, as the service's user.
c() { nsenter -t "$INIT" -a "$@"; }
s() { c runuser -u steadfast -- steadfast --state-dir /var/lib/steadfast "$@"; }
trap 'c systemctl poweroff >/dev/null 2>&1; wait $NSPAWN 2>/dev/null; rm -f "$LOG"' EXIT

# --- helpers ---------------------------------------------------------------------------------------------------------

now() { date +%s%3N; }
property() { c systemctl show -P "$1" steadfast; }
# row STEP RESULT MEASURED
row() {
    printf '%-52s %-7s %s\n' "$1" "$2" "$3"
    [ "$2" = ok ] || { FAILED=1; c journalctl -u steadfast -n 15 --no-pager -o cat | cut -c1-300 | sed 's/^/    /'; }
}
# check STEP MEASURED CONDITION…
check() {
    local step=$1 measured=$2
    shift 2
    if "$@"; then row "$step" ok "$measured"; else row "$step" FAILED "$measured"; fi
}
# until_true SECONDS COMMAND…
until_true() {
    local end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $end ] || return 1
        sleep 0.1
    done
}
# The minimal Debian has no program for it.
# Never 0, which would be this script and all that it has started.
strike() { [ "${1:-0}" -gt 0 ] && c bash -c "kill -9 $1"; }
quiet() { "$@" >/dev/null; }
is() { [ "$(property "$1")" = "$2" ]; }
# sessions FIELD: how many, as the daemon (or the store) says.
sessions() { s status --json 2>/dev/null | sed -n '/"sessions"/,/}/p' | sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p"; }
has() { [ "$(sessions "$1")" = "$2" ]; }
write() { c tee "$1" >/dev/null; }
# sim TOML: simulated models that do this, from now on.
SIM=0
sim() {
    c systemctl stop "sim-$SIM" 2>/dev/null
    SIM=$((SIM + 1))
    {
        printf 'api_key = "the-key"\n[[plan.milestones]]\nname = "Write"\ndescription = "Write it."\ncreate = ["a.txt"]\n'
        printf '%b' "$1"
    } | write /root/sim.toml
    c systemd-run --quiet --collect "--unit=sim-$SIM" steadfast sim --listen 127.0.0.1:8080 --script /root/sim.toml
    until_true 10 c bash -c ': </dev/tcp/127.0.0.1/8080' 2>/dev/null
}
HANG='[[rule]]\nmatch = { role = "coder" }\nthen = { fault = "hang" }\n'
# submit N: an idea of its own; answers what the program said.
submit() {
    printf -- '---\nid: idea-%s\n---\n# Idea %s\n\nWrite a file.\n' "$1" "$1" | write "/srv/idea-$1.md"
    s submit "/srv/idea-$1.md" --repo "${2:-/srv/repositories/one}" --json 2>&1
}
configure() {
    printf '%s\n' '[daemon]' "max_sessions = $1" '[providers.sim]' 'kind = "openai"' \
        'base_url = "http://127.0.0.1:8080/v1"' 'api_key_file = "$CREDENTIALS_DIRECTORY/sim"' \
        '[roles]' 'planner = ["sim/m"]' 'coder = ["sim/m"]' 'reviewer = ["sim/m"]' \
        '[failover]' 'reset_timeout = "1s"' 'outage_patience = "5min"' \
        '[session]' 'checks = ["test -e a.txt -a ! -e /var/lib/steadfast/store"]' "$2" | write /etc/steadfast/config.toml
}

# --- install, as docs/operations.md says -----------------------------------------------------------------------------

c systemctl stop steadfast 2>/dev/null
c rm -rf /var/lib/steadfast /etc/systemd/system/steadfast.service.d /run/systemd/system/steadfast.service.d /srv/repositories \
    /srv/other /etc/steadfast /etc/credstore /root/checks.conf
rm -f "$TREE/usr/local/bin/steadfast"
strip -o "$TREE/usr/local/bin/steadfast" "$PROGRAM" 2>/dev/null || cp "$PROGRAM" "$TREE/usr/local/bin/steadfast"
chmod 755 "$TREE/usr/local/bin/steadfast"
cp "$HERE/config/systemd/steadfast.service" "$TREE/etc/systemd/system/"
mkdir -p "$TREE/usr/lib/sysusers.d" "$TREE/etc/systemd/system/steadfast.service.d"
cp "$HERE/config/systemd/steadfast.sysusers" "$TREE/usr/lib/sysusers.d/steadfast.conf"
cp "$HERE/config/systemd/steadfast.service.d/"*.conf "$TREE/etc/systemd/system/steadfast.service.d/"
printf '[Service]\nLoadCredential=sim:steadfast.sim\n' | write /etc/systemd/system/steadfast.service.d/keys.conf
c systemd-sysusers
c mkdir -p -m 0700 /etc/credstore
c mkdir -p /etc/steadfast /srv/repositories /srv/other
printf 'the-key\n' | write /etc/credstore/steadfast.sim
c chmod 600 /etc/credstore/steadfast.sim
for repository in /srv/repositories/one /srv/other/two; do
    c git init -q "$repository"
    c git -C "$repository" -c user.name=a -c user.email=a@b commit -q --allow-empty -m Begin
    c chown -R steadfast: "$(dirname $repository)"
done
configure 20 ''
c systemctl daemon-reload
sim ''

printf '%s\n%-52s %-7s %s\n' "$(c systemctl --version | head -1), $(c bwrap --version)" STEP RESULT MEASURED
printf -- '%.0s-' {1..96}; echo

# --- the unit --------------------------------------------------------------------------------------------------------

exposure() { c systemd-analyze security steadfast 2>/dev/null | sed -n 's/.*level for .*: \([0-9.]*\).*/\1/p'; }
tenths() { [ "$(exposure | tr -d .)" -le "$1" ]; }
c mv /etc/systemd/system/steadfast.service.d/checks.conf /root/
c systemctl daemon-reload
check "exposure, repositories.conf" "$(exposure) of 10" tenths 20
c mv /root/checks.conf /etc/systemd/system/steadfast.service.d/
c systemctl daemon-reload
check "exposure, and checks.conf" "$(exposure) of 10" tenths 25

# --- boot ------------------------------------------------------------------------------------------------------------

begun=$(now)
c systemctl start steadfast
check "start: READY" "$(($(now) - begun)) ms" is ActiveState active
check "the socket answers at once" "" quiet s status --check
check "status" "$(property StatusText)" until_true 5 is StatusText idle

# --- work, on a repository that is not its own, with a key as credential and a check in bubblewrap -------------------

submit 1 >/dev/null
check "an idea becomes a commit (credential, bubblewrap)" "" until_true 60 has completed 1
check "the commit is there" "$(c git -c safe.directory='*' -C /srv/repositories/one log --format=%s steadfast/idea-1 2>&1 | head -1)" \
    quiet c git -c safe.directory='*' -C /srv/repositories/one rev-parse -q --verify steadfast/idea-1~1
check "its check ran, and did not see the state directory" "" \
    c bash -c 'journalctl -u steadfast -o cat | grep "check ended" | grep -q "passed=true"'
submit 2 /srv/other/two >/dev/null
until_true 20 has failed 1
why() { s show idea-2 | sed -n 's/^failed: //p' | head -1 | cut -c1-60; }
why=$(why)
read_only() { has failed 1 && [[ "$(s show idea-2)" == *"Read-only file system"* ]]; }
check "a repository that no drop-in names is not changed" "$why…" read_only
denied() { ! c nsenter -t "$(property MainPID)" -m setpriv --reuid steadfast --clear-groups touch "$1" 2>/dev/null; }
check "nothing else of the machine is writable" "" denied /etc/steadfast/x
unseen() { [ -z "$(c nsenter -t "$(property MainPID)" -m ls /home /root 2>/dev/null | grep -v :)" ]; }
check "homes are not seen" "" unseen

# --- kill -9 ---------------------------------------------------------------------------------------------------------

before=$(sessions completed)
sim "$HANG"
submit 3 >/dev/null
until_true 20 has active 1
pid=$(property MainPID)
begun=$(now)
strike "$pid"
back() { ! is MainPID "$1" && ! is MainPID 0 && is ActiveState active; }
until_true 30 back "$pid"
check "kill -9: started again" "$(($(now) - begun)) ms, NRestarts=$(property NRestarts)" is NRestarts 1
sim ''
check "  its session was resumed and is done" "" until_true 60 has completed $((before + 1))

# --- watchdog --------------------------------------------------------------------------------------------------------

sim "$HANG"
c mkdir -p /run/systemd/system/steadfast.service.d
printf '[Service]\nWatchdogSec=4s\nEnvironment=STEADFAST_TEST_FAULT=supervisor-ping=hang@12\n' |
    write /run/systemd/system/steadfast.service.d/fault.conf
c systemctl daemon-reload
c systemctl restart steadfast
submit 4 >/dev/null
pid=$(property MainPID)
mark=$(c date +%s)
hangs() { c journalctl -u steadfast -o cat --since "@$mark" | grep -q 'a fault on purpose'; }
barks() { c journalctl -u steadfast -o cat --since "@$mark" | grep -q 'Watchdog timeout'; }
check "the supervisor hangs (the rest runs)" "" until_true 40 hangs
begun=$(now)
c rm -r /run/systemd/system/steadfast.service.d
c systemctl daemon-reload
until_true 20 barks
took=$(($(now) - begun))
check "watchdog (4 s): killed" "after $took ms" [ $took -lt 6000 ]
until_true 30 back "$pid"
check "  started again" "NRestarts=$(property NRestarts)" is NRestarts 1
sim ''
check "  its session was resumed and is done" "" until_true 60 has completed $((before + 2))

# --- reload ----------------------------------------------------------------------------------------------------------

c systemctl restart steadfast
sim "$HANG"
submit 5 >/dev/null
submit 6 >/dev/null
until_true 20 has active 2
pid=$(property MainPID)
configure 30 'max_review_rounds = 1'
begun=$(now)
c systemctl reload steadfast
code=$?
check "reload, good: taken" "$(($(now) - begun)) ms" [ $code = 0 ]
same() { is MainPID "$pid" && is ActiveState active && has active 2; }
check "  same process, both sessions at work" "" same
configure 30 'max_reviews = 1'
c systemctl reload steadfast 2>/dev/null
code=$?
check "reload, bad: refused" "ExecReload: $(property ExecReload | grep -o 'status=[^ ;]*'), systemctl: $code" [ $code != 0 ]
refused() { [[ "$(property StatusText)" == *refused*max_review_rounds* ]] && is ReloadResult exit-code; }
check "  with its fault, and the old one kept" "$(property StatusText | cut -c1-60)…" refused
# Its own commands read the file, too.
configure 30 ''
check "  same process, both sessions at work" "" same

# --- stop with sessions in flight, and resume ------------------------------------------------------------------------

for n in $(seq 7 14); do submit "$n" >/dev/null; done
until_true 30 has active 10
begun=$(now)
c systemctl stop steadfast
took=$(($(now) - begun))
check "stop with 10 sessions in flight" "$took ms, $(property Result)" [ $took -lt 10000 ]
check "  in order" "exit code $(property ExecMainStatus)" is ExecMainStatus 0
check "  all 10 interrupted" "" has interrupted 10
sim ''
begun=$(now)
c systemctl start steadfast
check "start: READY with 10 to resume" "$(($(now) - begun)) ms" is ActiveState active
check "  all 10 resumed and done" "" until_true 90 has completed $((before + 12))
doubled() { for n in $(seq 3 14); do
    [ "$(c git -c safe.directory='*' -C /srv/repositories/one rev-list --count "steadfast/idea-$n")" = 2 ] || return 1
done; }
check "  one commit each, none doubled" "" doubled

# --- never for good, but for a bad configuration ---------------------------------------------------------------------

for _ in 1 2 3 4 5 6 7; do
    pid=$(property MainPID)
    strike "$pid"
    until_true 90 back "$pid" || break
done
check "killed 7 times at once: started again each time" "NRestarts=$(property NRestarts)" is ActiveState active
next=$(property RestartUSecNext)
check "  with growing pauses (systemd 254)" "next: ${next:-not known to this systemd, 1 s}" \
    [ "${next:-more}" != 1s ]
configure 30 'max_reviews = 1'
c systemctl restart steadfast 2>/dev/null
sleep 3
check "a bad configuration: not started again" "exit code $(property ExecMainStatus)" is ActiveState failed
check "  and not tried again" "NRestarts=$(property NRestarts)" is NRestarts 0
configure 30 ''
c systemctl start steadfast
check "  mended: started" "" is ActiveState active

c mv /etc/systemd/system/steadfast.service.d/checks.conf /root/
c systemctl daemon-reload
c systemctl restart steadfast 2>/dev/null
told() { is ActiveState failed && is ExecMainStatus 2 && [[ "$(property StatusText)" == *"cannot make a sandbox here"* ]]; }
check "checks without checks.conf: told, and not started" "$(property StatusText | cut -c1-60)…" told
c systemctl stop steadfast

# --- a person's own ---------------------------------------------------------------------------------------------------

c id alice >/dev/null 2>&1 || c useradd -m alice
u() { c runuser -u alice -- env "XDG_RUNTIME_DIR=/run/user/$(c id -u alice)" "HOME=/home/alice" "$@"; }
u mkdir -p /home/alice/.local/bin /home/alice/.config/systemd/user
cp "$HERE/config/systemd/user/steadfast.service" "$TREE/home/alice/.config/systemd/user/"
c ln -sf /usr/local/bin/steadfast /home/alice/.local/bin/steadfast
c rm /etc/steadfast/config.toml
c loginctl enable-linger alice
until_true 20 c test -S "/run/user/$(c id -u alice)/systemd/private"
u systemctl --user daemon-reload
begun=$(now)
u systemctl --user start steadfast
check "user unit: READY" "$(($(now) - begun)) ms" [ "$(u systemctl --user show -P ActiveState steadfast)" = active ]
check "  its commands find it without options" "" quiet u /usr/local/bin/steadfast sessions
check "  reload" "" u systemctl --user reload steadfast
u systemctl --user stop steadfast
check "  stop" "exit code $(u systemctl --user show -P ExecMainStatus steadfast)" \
    [ "$(u systemctl --user show -P Result steadfast)" = success ]

exit $FAILED
