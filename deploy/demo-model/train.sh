#!/usr/bin/env bash
# Trains the demo model from nothing, and the same fine-tuning without noise to compare it with:
#
#     deploy/demo-model/train.sh GSM8K OUT [FLAGS...]        # about an hour on two cores
#
# GSM8K is a folder with train.jsonl and test.jsonl of openai/grade-school-math (MIT licence). OUT/msn is the model, OUT/report.html
# has both runs side by side. FLAGS are added to each clamor train. After an interruption, the same command goes on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
clamor=${CLAMOR:-$here/../../build/release/bin/clamor}
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }
data=$1
out=$2
flags=("${@:3}")
mkdir -p "$out"
for split in train test; do "$here/gsm8k_messages.py" < "$data/$split.jsonl" > "$out/$split.jsonl"; done
# One sample of the training split is longer than 512 tokens.
common=(--data "$out/train.jsonl" --holdout "$out/holdout.jsonl" --max-length 512 --on-bad-sample skip --evaluate-prompts 40
        --evaluate-every 300 --resume)
head -200 "$out/test.jsonl" > "$out/holdout.jsonl"

run() {  # NAME FLAGS...: unless it is there already
  local name=$1
  shift
  [ -e "$out/$name.done" ] && return
  echo "== $name" >&2
  "$clamor" train --output "$out/$name" "${common[@]}" "$@" "${flags[@]}"
  touch "$out/$name.done"
}
run base --config "$here/config.json" --tokenizer "$here/tokenizer.json" --noise none --loss all --epochs 3 --lr 2e-3 --seed 1
run sft --model "$out/base" --noise none --epochs 2 --lr 5e-4 --seed 2 --dtype bf16
run msn --model "$out/base" --noise ahead --epochs 2 --lr 5e-4 --seed 2 --dtype bf16
"$clamor" report "$out/sft" "$out/msn" --output "$out/report.html"
