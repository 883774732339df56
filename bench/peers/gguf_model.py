"""A Hugging Face directory of a Qwen2 model as GGUF files for llama.cpp: the very weights in bf16 or f32, or llama.cpp's own
quantisation of them. Needs numpy, gguf and llama-cpp-python."""
import ctypes
import json
import pathlib

import numpy as np

NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def tensors(path):
    """(name, array) of a safetensors file; bf16 as uint16."""
    raw = np.memmap(path, np.uint8, "r")
    size = int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8:8 + size].tobytes())
    kinds = {"BF16": np.uint16, "F32": np.float32}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in kinds:
            raise SystemExit(f"{path}: tensor {name} is {entry['dtype']}, must be BF16 or F32")
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        yield name, np.frombuffer(raw[begin:end].tobytes(), kinds[entry["dtype"]]).reshape(entry["shape"])


def gguf_name(name):
    top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in top:
        return top[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def as_f32(array):
    return array if array.dtype == np.float32 else (array.astype(np.uint32) << 16).view(np.float32)


def as_bf16(array):
    if array.dtype == np.uint16:
        return array
    bits = np.ascontiguousarray(array).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def add_tokenizer(writer, directory, vocab_size):
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokens, types = [f"[unused{i}]" for i in range(vocab_size)], [5] * vocab_size
    for token, i in tokenizer["model"]["vocab"].items():
        tokens[i], types[i] = token, 1
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], 3
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)


def write(directory, path, kind):
    """kind: f32 or bf16. Vectors are always f32."""
    import gguf
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    if config["model_type"] != "qwen2":
        raise SystemExit(f"{directory}: model_type is {config['model_type']}, this script writes qwen2 only")
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(float(config.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(writer, directory, config["vocab_size"])
    eos = config.get("eos_token_id", 0)
    writer.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)
    for file in sorted(directory.glob("*.safetensors")):
        for name, array in tensors(file):
            if array.ndim == 1 or kind == "f32":
                writer.add_tensor(gguf_name(name), as_f32(array))
            else:
                writer.add_tensor(gguf_name(name), as_bf16(array).view(np.uint8).reshape(*array.shape[:-1], -1),
                                  raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source, path, kind):
    """kind: q8_0 or q4_0, by llama.cpp itself."""
    import llama_cpp
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[kind]
    params.nthread = 2
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"{path}: llama.cpp could not quantise {source}")


def ensure(directory, folder, kind):
    """The GGUF file of `kind` in `folder`, made unless it is there."""
    folder = pathlib.Path(folder)
    path = folder / f"{kind}.gguf"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    if kind in ("f32", "bf16"):
        write(directory, part, kind)
    else:
        quantize(ensure(directory, folder, "bf16"), part, kind)
    part.rename(path)
    return path
