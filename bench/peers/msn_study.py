#!/usr/bin/env python3
"""MSN training beside PyTorch, to the same end: one set of initial weights, one order of batches, one draw of the noise.

    python3 bench/peers/msn_study.py TRAIN.jsonl HOLDOUT.jsonl [--replay build/release/bin/train_replay] [--steps 60]

The files hold `messages` (deploy/demo-model/gsm8k_messages.py makes GSM8K into them). A base model is trained for --steps
from nothing, then fine-tuned from there for as many without noise (sft) and with it (msn): by PyTorch here, and by
train_replay over the batches that PyTorch read. Prints the held-out loss per response token of all six. Needs torch,
transformers and tokenizers. At the length of the demo model's recipe, --steps 966, two cores are busy for three hours.
"""
import argparse
import json
import math
import pathlib
import random
import shutil
import subprocess
import tempfile

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from train import CONFIG, ROOT

DEMO = ROOT / "deploy/demo-model"
IGNORED = -100


def samples(path, limit=512):
    """[(ids of the prompt, ids of the response)]"""
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    out = []
    for line in open(path):
        *asked, said = json.loads(line)["messages"]
        prompt = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in asked) + "<|im_start|>assistant\n"
        sample = tokenizer.encode(prompt).ids, tokenizer.encode(said["content"] + "<|im_end|>").ids
        if len(sample[0]) + len(sample[1]) <= limit:
            out.append(sample)
    return out


def plan(data, steps, noise, whole, seed, budget=4096, length=5):
    """[[{"inputs", "labels", "from"}]], a list of texts for each step: those of like length together, in a drawn order."""
    rng = random.Random(seed)
    batches = []
    while len(batches) < steps:
        epoch, batch, order = [], [], sorted(data, key=lambda s: (len(s[0]) + len(s[1]), rng.random()))
        for sample in order:
            if batch and (len(sample[0]) + len(sample[1])) * (len(batch) + 1) > budget:
                epoch.append(batch)
                batch = []
            batch.append(sample)
        epoch.append(batch)
        rng.shuffle(epoch)
        batches += epoch
    texts = []
    for batch in batches[:steps]:
        texts.append([])
        for prompt, response in batch:
            inputs = prompt + response
            if noise and len(response) > length:
                start = rng.randrange(len(prompt), len(inputs) - length)
                for i in range(start, start + length):
                    inputs[i] = inputs[rng.randrange(i)]
            texts[-1].append({"inputs": inputs, "labels": prompt + response, "from": 0 if whole else len(prompt)})
    return texts


def loss_of(model, texts):
    """Mean over the labels that count."""
    longest = max(len(text["inputs"]) for text in texts)
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, text in enumerate(texts):
        ids[i, :len(text["inputs"])] = torch.tensor(text["inputs"])
        labels[i, text["from"]:len(text["labels"])] = torch.tensor(text["labels"][text["from"]:])
    logits = model(ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.size(-1)), labels[:, 1:].reshape(-1),
                                             ignore_index=IGNORED)


def train_torch(model, steps, lr):
    """With the schedule of `clamor train`, and weight decay on matrices."""
    groups = [{"params": [p for p in model.parameters() if (p.dim() == 2) == matrices], "weight_decay": 0.1 * matrices}
              for matrices in (True, False)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    warm_up = max(20, len(steps) // 50)
    model.train()
    for step, texts in enumerate(steps):
        scale = min(1, (step + 1) / warm_up) * (0.1 + 0.45 * (1 + math.cos(math.pi * step / len(steps))))
        for group in optimizer.param_groups:
            group["lr"] = lr * scale
        loss = loss_of(model, texts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def held_out(folder, holdout):
    """Mean loss per response token."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses = [(loss_of(model, [{"inputs": p + r, "labels": p + r, "from": len(p)}]).item(), len(r)) for p, r in holdout]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def save(model, folder):
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(DEMO / name, folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train")
    parser.add_argument("holdout")
    parser.add_argument("--replay", default=ROOT / "build/release/bin/train_replay")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, holdout = samples(args.train), samples(args.holdout)[:200]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        torch.manual_seed(0)
        save(Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in CONFIG.items() if k != "model_type"})), root / "start")
        print("| held-out loss | clamor | PyTorch | difference |\n|---|---|---|---|")
        for name, base, lr, noise, seed in (("base", None, 2e-3, False, 1), ("sft", "base", 5e-4, False, 2),
                                            ("msn", "base", 5e-4, True, 2)):
            steps = plan(data, args.steps, noise, whole=base is None, seed=seed)
            file = root / f"{name}.jsonl"
            file.write_text("".join(json.dumps(texts) + "\n" for texts in steps))
            losses = []
            for side in ("clamor", "torch"):
                source = root / (f"{side}-{base}" if base else "start")
                target = root / f"{side}-{name}"
                if side == "clamor":
                    subprocess.run([args.replay, source, file, target, "--lr", str(lr), "--threads", str(args.threads)],
                                   check=True, capture_output=True)
                else:
                    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
                    train_torch(model, steps, lr)
                    save(model, target)
                losses.append(held_out(target, holdout))
            print(f"| {name} | {losses[0]:.4f} | {losses[1]:.4f} | {losses[0] - losses[1]:+.4f} |", flush=True)


if __name__ == "__main__":
    main()
