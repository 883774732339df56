#!/usr/bin/env python3
"""Training speed beside PyTorch: the same batches of real tokens, the same 5.5M-parameter Qwen2 shape, one after the other.

    python3 bench/peers/train.py TRAIN.jsonl [--bench build/release/bin/train_bench] [--steps 100] [--rounds 3]

TRAIN.jsonl holds `messages` (deploy/demo-model/README.md says how to make GSM8K into it). Needs torch, transformers and
tokenizers. Each round runs both programs; the table has the median of the rounds and their ratio.
"""
import argparse
import json
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = {
    "model_type": "qwen2", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "silu",
}


def batches_of(path, steps, budget=4096, limit=512):
    """Texts of similar length together, so that padding, which PyTorch needs and we do not, costs little."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(ROOT / "deploy/demo-model/tokenizer.json"))
    texts = []
    for line in open(path):
        messages = json.loads(line)["messages"]
        ids = tokenizer.encode("".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)).ids
        if len(ids) <= limit:
            texts.append(ids)
    rng = random.Random(1)
    texts.sort(key=lambda ids: (len(ids), rng.random()))
    batches, batch = [], []
    for ids in texts:
        if batch and len(ids) * (len(batch) + 1) > budget:
            batches.append(batch)
            batch = []
        batch.append(ids)
    rng.shuffle(batches)
    return batches[:steps]


def run_torch(batches, threads):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in CONFIG.items() if k != "model_type"}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    start, tokens = time.monotonic(), 0
    for texts in batches:
        longest = max(map(len, texts))
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for i, text in enumerate(texts):
            ids[i, :len(text)] = labels[i, :len(text)] = torch.tensor(text)
        logits = model(ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.size(-1)), labels[:, 1:].reshape(-1), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += sum(map(len, texts))
    seconds = time.monotonic() - start
    return {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, "last_loss": loss.item(),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--bench", default=ROOT / "build/release/bin/train_bench")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch-child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_child:
        print(json.dumps(run_torch(json.load(open(args.torch_child)), args.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        config, file = pathlib.Path(folder, "config.json"), pathlib.Path(folder, "batches.json")
        config.write_text(json.dumps(CONFIG))
        file.write_text(json.dumps(batches_of(args.data, args.steps)))
        commands = {
            "clamor": [args.bench, config, file, str(args.threads)],
            "pytorch": [sys.executable, __file__, args.data, "--threads", str(args.threads), "--torch-child", file],
        }
        results = {name: [] for name in commands}
        for number in range(args.rounds):
            for name, command in commands.items():
                results[name].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                print(f"round {number + 1} {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    median = {name: statistics.median(r["tokens_per_second"] for r in rows) for name, rows in results.items()}
    print("| | tokens/s | peak memory, MiB |\n|---|---|---|")
    for name, rows in results.items():
        print(f"| {name} | {median[name]:.0f} | {max(r['peak_memory_mib'] for r in rows)} |")
    print(f"\nratio {median['clamor'] / median['pytorch']:.2f}")


if __name__ == "__main__":
    main()
