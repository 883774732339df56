"""Records what the `tokenizers` library makes of many tokenizer.json variants, for variants_test.cc.

    pip install tokenizers && python record_tokenizers.py ../../../testdata tokenizer_variants.json

A variant is a patch of a model directory's tokenizer.json: its top-level fields replace those of the file, "model" is merged.
"""
import json
import random
import sys
from itertools import count
from pathlib import Path

from tokenizers import Tokenizer

REGEX = r"\s+(?!\S)|\s+|\p{L}+|\p{N}{1,2}"
SPLITS = [  # as models in the wild have them
    [r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
     r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5]+"],
    [r" ?[^(\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"],
]
TEXTS = [
    "", " ", "Hello  world", " two  spaces here ", "naïve café e\u0301 Å ① ﬁ", "a1b22 333 ４5 ½", "日本語 テスト🙂 👩\u200d👧", "x<s>y </s> z",
    "\u00a0\u3000tab\tnew\n\nline\r\n \u180e \u0085 \u2028", "İstanbul STRASSE ẞ", "the-end, the_end. end", "<|im_end|> <|im_start|>x",
    "word<X> <X>word <X> a<X>b", "she buys 3 for $12.50", "a\u0315\u0300\u0301b \u1100\u1161\u11a8 각", "▁already▁there ▁", "#include <a.h>\n\tHTTPServer's isn'T WE'LL/\n/x…", "q\U0010ffff\ue000\x00\x7f",
]


def added(**flags):
    base = {"content": "<X>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {**base, **flags}


def variants():
    for form in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"]:
        yield "tiny-mistral", {"normalizer": {"type": form}}
        yield "tiny-qwen2", {"normalizer": {"type": form}}
    for left in [True, False]:
        for right in [True, False]:
            yield "tiny-mistral", {"normalizer": {"type": "Strip", "strip_left": left, "strip_right": right}}
    for pattern in [{"Regex": r"\s+"}, {"Regex": "x*"}, {"String": "e"}]:
        yield "tiny-mistral", {"normalizer": {"type": "Replace", "pattern": pattern, "content": "▁"}}
    yield "tiny-mistral", {"normalizer": None}
    yield "tiny-mistral", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}, {"type": "Prepend", "prepend": "▁"}]}}

    for behavior in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        for invert in [False, True]:
            for pattern in [{"Regex": REGEX}, {"String": "e"}, {"Regex": r"\w+|[^\w\s]+"}, {"Regex": r"^.|\b\d"}]:
                yield "tiny-mistral", {"normalizer": None, "pre_tokenizer": {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}}
    for scheme in ["always", "first", "never"]:
        for split in [True, False]:
            metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
            yield "tiny-mistral", {"normalizer": None, "pre_tokenizer": metaspace, "decoder": metaspace}
            yield "tiny-mistral", {"normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": split}, metaspace]}, "added_tokens": [added(special=True)]}
    yield "tiny-mistral", {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}}
    for prefix_space in [True, False]:
        for use_regex in [True, False]:
            byte_level = {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": True, "use_regex": use_regex}
            yield "tiny-qwen2", {"pre_tokenizer": byte_level}
    for patterns in SPLITS:
        splits = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} for pattern in patterns]
        yield "tiny-qwen2", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": splits + [
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}}
    for individual in [True, False]:
        yield "tiny-qwen2", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": individual}, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}}

    for flag in ["single_word", "lstrip", "rstrip", "normalized", "special"]:
        for base in ["tiny-mistral", "tiny-qwen2"]:
            yield base, {"added_tokens": [added(**{flag: True})]}
            yield base, {"added_tokens": [added(content="e", **{flag: True}), added(content="<X>w", lstrip=True, rstrip=True, special=True)]}
    yield "tiny-mistral", {"normalizer": {"type": "Lowercase"}, "added_tokens": [added(content="THE", normalized=True), added(content="end", normalized=True, special=True)]}

    for fuse in [True, False]:
        yield "tiny-mistral", {"model": {"byte_fallback": False, "fuse_unk": fuse}}
    yield "tiny-mistral", {"model": {"byte_fallback": False, "unk_token": None}}
    yield "tiny-qwen2", {"model": {"ignore_merges": True}}
    yield "tiny-mistral", {"post_processor": {"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "b", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"a": {"id": "a", "ids": [1, 2], "tokens": ["<s>", "</s>"]}, "b": {"id": "b", "ids": [2], "tokens": ["</s>"]}}}]}}

    strip = lambda start, stop: {"type": "Strip", "content": " ", "start": start, "stop": stop}
    to_space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    for chain in [[to_space], [to_space, {"type": "Fuse"}, strip(1, 0)], [to_space, {"type": "Fuse"}, strip(2, 0)], [to_space, strip(1, 0), {"type": "Fuse"}],
                  [{"type": "Fuse"}, to_space, {"type": "ByteFallback"}], [to_space, {"type": "ByteFallback"}], [{"type": "ByteFallback"}, {"type": "Fuse"}, to_space],
                  [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]]:
        yield "tiny-mistral", {"decoder": {"type": "Sequence", "decoders": chain}}
    yield "tiny-mistral", {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                           "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
                           "decoder": {"type": "Sequence", "decoders": [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}]}}
    yield "tiny-mistral", {"decoder": None}
    yield "tiny-mistral", {"decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}


def patched(directory, patch):
    document = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = document["model"]["vocab"]
    fresh = count(len(vocab))
    for token in patch.get("added_tokens", []):
        token["id"] = vocab[token["content"]] if token["content"] in vocab else next(fresh)
    for key, value in patch.items():
        if key == "model":
            document[key].update(value)
        elif key == "added_tokens":
            document[key] += value
        else:
            document[key] = value
    return json.dumps(document)


def main():
    models, out = Path(sys.argv[1]), Path(sys.argv[2])
    rng = random.Random(0)
    recorded = []
    for base, patch in variants():
        tokenizer = Tokenizer.from_str(patched(models / base, patch))
        ids = [tokenizer.encode(text).ids for text in TEXTS]
        tokenizer.encode_special_tokens = True
        plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        decoded = []
        if "decoder" in patch:
            for n in range(40):
                some = [rng.choice([rng.randrange(600), rng.randrange(3, 259), rng.choice([348, 229, 131, 134, 1, 259])]) for _ in range(n % 9)]
                decoded.append([some, tokenizer.decode(some, skip_special_tokens=True), tokenizer.decode(some, skip_special_tokens=False)])
        recorded.append({"base": base, "patch": patch, "ids": ids, "plain": plain, "decoded": decoded})
    lines = ",\n".join(json.dumps(variant, ensure_ascii=False, separators=(",", ":")) for variant in recorded)
    out.write_text('{"texts":' + json.dumps(TEXTS) + ',\n"variants":[\n' + lines + "\n]}\n", encoding="utf-8")


main()
