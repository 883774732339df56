#!/usr/bin/env bash
# From a fresh checkout to a streamed answer: installs what is missing, builds, starts retrieval, worker and gateway on
# loopback with the demo model, and asks one question twice: by plain decoding and by TR-Jacobi.
#
#   deploy/quickstart.sh           start (or reuse what runs) and ask
#   deploy/quickstart.sh --stop    stop what it started
set -euo pipefail
cd "$(dirname "$0")/.."
bin=build/release/bin
state=build/quickstart

# service NAME PORT FLAGS...: starts clamor-NAME unless it runs, and waits until it is ready.
service() {
  local name=$1 port=$2
  shift 2
  if [ -f "$state/$name.pid" ] && kill -0 "$(cat "$state/$name.pid")" 2>/dev/null; then
    echo "  $name runs already"
    return
  fi
  "$bin/clamor-$name" --listen "127.0.0.1:$port" --http "127.0.0.1:$((port + 1))" "$@" >"$state/$name.log" 2>&1 &
  echo $! >"$state/$name.pid"
  for _ in $(seq 600); do
    if curl -sf "http://127.0.0.1:$((port + 1))/readyz" >/dev/null; then
      echo "  $name is ready on 127.0.0.1:$port, log $state/$name.log"
      return
    fi
    kill -0 "$(cat "$state/$name.pid")" 2>/dev/null || break
    sleep 0.1
  done
  echo "$name did not start; the end of $state/$name.log:" >&2
  tail -n 5 "$state/$name.log" >&2
  exit 1
}

stop() {
  local name pid
  for name in gateway worker retrieval; do
    [ -f "$state/$name.pid" ] || continue
    pid=$(cat "$state/$name.pid")
    if kill -TERM "$pid" 2>/dev/null; then
      while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
      echo "stopped $name"
    fi
    rm -f "$state/$name.pid"
  done
}

case ${1:-} in
  "") ;;
  --stop) stop; exit 0 ;;
  -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "deploy/quickstart.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
esac

source deploy/packages.sh
ensure_packages
command -v curl >/dev/null || { clamor_packages=(curl); ensure_packages; }

echo "building (preset release)"
[ -f build/release/build.ninja ] || cmake --preset release -DCLAMOR_TESTS=OFF >/dev/null
cmake --build --preset release

mkdir -p "$state"
echo "starting three services"
service retrieval 7720 --store "$state/store"
service worker 7710 --model deploy/demo-model --retrieval 127.0.0.1:7720
service gateway 7700 --workers 127.0.0.1:7710 --sessions "$state/sessions"

question="Tom has 3 boxes with 12 apples each. He gives 9 apples to Mia and sells half of the rest. How many apples does he have left?"
ask() { "$bin/clamor" generate --server 127.0.0.1:7700 --chat --prompt "$question" --max-tokens 128 "$@"; }

ids() { ask --output json "$@" | sed -n 's/.*"token_ids":\[\([^]]*\)\].*/\1/p'; }

printf '\n--- plain decoding\n'
ask --nodes 0
printf '\n--- TR-Jacobi\n'
ask --nodes auto
plain=$(ids --nodes 0)
if [ -n "$plain" ] && [ "$plain" = "$(ids --nodes auto)" ]; then
  printf '\nBoth gave the same %d token ids.\n' "$(tr ',' '\n' <<<"$plain" | wc -l)"
else
  printf '\nThe two answers differ. That must not happen; please report it.\n' >&2
  exit 1
fi

cat <<EOF

The cluster goes on running. Some things to try:
  http://127.0.0.1:7702/ in a browser: a chat that shows who guessed what
  curl http://127.0.0.1:7702/v1/chat/completions -H 'Content-Type: application/json' -d '{"messages": [{"role": "user", "content": "How many legs do 7 cats have?"}], "temperature": 0}'
  $bin/clamor chat --server 127.0.0.1:7700 --show-drafts
  $bin/clamor status --server 127.0.0.1:7700
  $bin/clamor generate --server 127.0.0.1:7700 --chat --tree published --prompt "How many legs do 7 cats have?"
  curl -s http://127.0.0.1:7711/metrics | grep clamor_
Stop it with: deploy/quickstart.sh --stop
EOF
