#!/usr/bin/env bash
# Fuzzes each target for some seconds and says what came of it. What it finds stays in BUILD/found/TARGET.
#
#   tests/fuzz/run.sh BUILD SECONDS [TARGET ...]
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
build=$(realpath "$1") seconds=$2
shift 2
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- $(ls ./*_fuzz.cc | xargs -n1 basename -s .cc)
status=0
for target; do
  words=json.dict
  [ "$target" != chat_template_fuzz ] || words=template.dict
  mkdir -p "$build/found/$target"
  if "$build/bin/$target" -max_total_time="$seconds" -max_len=8192 -rss_limit_mb=1024 -timeout=10 -dict=$words -print_final_stats=1 \
      -artifact_prefix="$build/found/$target." "$build/found/$target" "corpus/$target" >"$build/found/$target.log" 2>&1; then
    verdict=ok
  else
    verdict=FAILED status=1
  fi
  coverage=$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$build/found/$target.log" | tail -1)
  runs=$(grep -oE 'number_of_executed_units: [0-9]+' "$build/found/$target.log" | grep -oE '[0-9]+' || true)
  memory=$(grep -oE 'peak_rss_mb: +[0-9]+' "$build/found/$target.log" | grep -oE '[0-9]+$' || true)
  echo "$verdict $target: ${runs:-?} executions, edges and features $coverage, at most ${memory:-?} MiB"
done
exit $status
