#!/usr/bin/env bash
# Runs Drover. Without an argument: Pi, server, a simulated radio and, where a bucket is configured, the shipper, on this machine, until
# Ctrl-C. `run.sh pi`, `run.sh server` or `run.sh ship`: that role.
# What a first start needs (packages, .env, certificate, database, a login) is made; what is there is never changed.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

python=.venv/bin/python
USAGE="usage: scripts/run.sh [pi|server [--prepare]|ship]    without a role: all of them and a simulated radio; --prepare: only what a start needs"
START_LIMIT=300 # tenths of a second that a role may take to answer
COPY_LIMIT=50   # tenths of a second that the first copy of the farm is waited for
STOP_LIMIT=45   # tenths of a second until what still runs is killed; the roles need 4 s at most

run_role() {
  scripts/venv.sh
  "$python" -m scripts.prepare "$1"
  [ "${2-}" = --prepare ] || exec "$python" -m "$1" serve
}

run_ship() { # beside the Pi's own role, which makes what it needs
  scripts/venv.sh
  exec "$python" -m pi ship
}

children=()
shipper= # its process
facts= # file in which scripts/prepare.py tells what it found

begin() { # set -m: the child leads a process group of its own, so that Ctrl-C reaches only this script, which ends all in order
  set -m
  "$@" &
  set +m
  children+=($!)
}

finish() {
  trap '' INT TERM HUP
  trap - EXIT
  local child others=() tenths=0
  for child in "${children[@]:1}"; do [ "$child" = "$shipper" ] || others+=("$child"); done
  kill -TERM "${others[@]}" 2>/dev/null || true
  # Last the first, the radio: a line that goes away would alarm the Pi. And the shipper, behind those who still write.
  for child in "${others[@]}" "${children[@]:0:1}" $shipper; do
    kill -TERM "$child" 2>/dev/null || true
    while kill -0 "$child" 2>/dev/null && [ $((tenths++)) -lt $STOP_LIMIT ]; do sleep 0.1; done
    kill -KILL -- "-$child" 2>/dev/null || true
  done
  rm -f "$facts"
  exit "$1"
}

fail() {
  echo "error: $*" >&2
  finish 1
}

setup() { # in a child, so that a signal need not wait for it
  scripts/venv.sh >&2 && "$python" -m scripts.prepare demo
}

await_copy() { # the pages have nothing to show before; a Pi that is none of this machine's may be away, though
  local tenths=0
  until [ -e "$DATA/replica.db" ] || [ $((tenths++)) -ge $COPY_LIMIT ]; do sleep 0.1; done
}

await_port() { # name of the role, host, port
  local tenths=0
  until (exec 3<>"/dev/tcp/$2/$3") 2>/dev/null; do
    kill -0 "${children[-1]}" 2>/dev/null || finish 1 # it has said why
    [ $((tenths++)) -lt $START_LIMIT ] || fail "the $1 does not answer on $2:$3"
    sleep 0.1
  done
}

show() {
  local how="as printed at the first start; to set a new password: $python -m pi user password $LOGIN"
  [ -z "$PASSWORD" ] || how="user $LOGIN, password $PASSWORD (not shown again; a new one: $python -m pi user password $LOGIN)"
  [ -n "$LOGIN" ] || how="none: this database has no tables of a farm, hence no users and no pages"
  cat <<END

Drover runs; Ctrl-C ends it.
  office pages  http://localhost:$SERVER_AT/office/
  login         $how
  Pi's API      $PI_SCHEME://localhost:$PI_AT/api/sync/health (its certificate: $CERTIFICATE)
  databases     $FARM is the Pi's, $DATA/replica.db the server's copy
  bucket        ${BUCKET:-none: LITESTREAM_BUCKET in .env names one}
  radio         ${LINK:+simulated, a payload every two seconds on }$RADIO

END
}

run_demo() {
  trap 'finish 0' INT TERM HUP
  trap 'finish $?' EXIT # nobody reads what is printed any more, or what else ends a script
  facts=$(mktemp)
  begin setup >"$facts"
  wait "${children[0]}" || finish 1
  children=()
  # shellcheck disable=SC1090  # what scripts/prepare.py printed
  . "$facts"
  [ -z "$LINK" ] || begin "$python" scripts/simulate_lora.py --link "$LINK" >/dev/null
  begin "$python" -m pi serve
  await_port Pi "$PI_HOST" "$PI_AT"
  if [ -n "$BUCKET" ]; then
    begin "$python" -m pi ship
    shipper=${children[-1]}
  fi
  begin "$python" -m server serve
  await_port server "$SERVER_HOST" "$SERVER_AT"
  await_copy
  show
  wait -n "${children[@]}" || true
  fail "a part of Drover has ended, so all of it does: its last lines, above or in $DATA/log, say why"
}

case "$*" in
pi | server | "pi --prepare" | "server --prepare") run_role "$@" ;;
ship) run_ship ;;
"") run_demo ;;
-h | --help) echo "$USAGE" ;;
*)
  echo "$USAGE" >&2
  exit 2
  ;;
esac
