#!/usr/bin/env python3
"""GSM8K (openai/grade-school-math, MIT licence) as conversations for `clamor train`:

    deploy/demo-model/gsm8k_messages.py < grade_school_math/data/train.jsonl > train.jsonl

The calculator annotations <<...>> are left out of the answers.
"""
import json
import re
import sys

for line in sys.stdin:
    row = json.loads(line)
    answer = re.sub(r"<<[^>]*>>", "", row["answer"]).strip()
    messages = [{"role": "user", "content": row["question"].strip()}, {"role": "assistant", "content": answer}]
    print(json.dumps({"messages": messages}))
