"""Writes real_models.json: the greedy answers of transformers in float32 on the real GGUF files.

Run with a Python that has torch, transformers and gguf (the output stores the versions used):

    python tests/goldens/make_real_models.py .models/gguf

The gguf package dequantises every block exactly to float32, and transformers' own model class loads the result. So the
reference shares nothing with the engine but the file's bytes. `equal_in_8_bit`: how many of the tokens stay the same
when MLX quantises every matrix (8 bits, groups of 64, float16 scales) and transformers runs the result. It shows the
effect of rounding alone. `margins[i]`: the best logit minus the second best one at the step that chose `tokens[i]`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import torch
import transformers
from gguf.quants import dequantize
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

NEW_TOKENS = 16
HERE = Path(__file__).parent

GEMMA_PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time there was a little girl who",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "Monday, Tuesday, Wednesday,",
    "The three primary colours are",
]
# Chosen from 19 coding questions for their wide margins (at least 0.17), before the engine had answered any. Of the
# first six questions tried, 8-bit rounding alone (by MLX, run by transformers) changed the first 16 tokens of three,
# whose margins were 0.02 to 0.05. Such questions would not test the engine.
QWEN_PROMPTS = [
    "Write a hello world program in C.",
    "What is the time complexity of binary search?",
    "How do I read a file line by line in Python?",
    "Write a Python function that checks if a number is prime.",
    "Write a function in JavaScript that returns the factorial of n.",
    "Write a bash command that lists all files in a folder.",
]

# GGUF name -> transformers' name, for the tensors of one block.
BLOCK_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
QWEN_BLOCK = {**BLOCK_NAMES, "ffn_norm.weight": "post_attention_layernorm.weight"}
GEMMA_BLOCK = {
    **BLOCK_NAMES,
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def state_of(reader: gguf.GGUFReader, block: dict[str, str], norms_hold_one: bool) -> dict:
    """All tensors, dequantised to float32, under transformers' names."""
    state = {}
    for tensor in reader.tensors:
        value = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).float()
        if tensor.name in OUTER:
            name = OUTER[tensor.name]
        else:
            _, index, rest = tensor.name.split(".", 2)
            name = f"model.layers.{index}.{block[rest]}"
        if norms_hold_one and name.endswith("norm.weight"):
            value = value - 1.0  # GGUF stores 1 + w for Gemma
        state[name] = value
    return state


def model_of(reader: gguf.GGUFReader):
    """transformers' model with the file's weights."""

    def field(key: str):
        return reader.fields[key].contents()

    arch = field("general.architecture")
    layers = field(f"{arch}.block_count")
    common = {
        "vocab_size": len(field("tokenizer.ggml.tokens")),
        "hidden_size": field(f"{arch}.embedding_length"),
        "intermediate_size": field(f"{arch}.feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": field(f"{arch}.attention.head_count"),
        "num_key_value_heads": field(f"{arch}.attention.head_count_kv"),
        "max_position_embeddings": field(f"{arch}.context_length"),
        "rms_norm_eps": 1e-6,  # the float32 in the file prints as 9.999999974752427e-07
    }
    if arch == "qwen2":
        config = Qwen2Config(
            **common,
            rope_parameters={"rope_type": "default", "rope_theta": field("qwen2.rope.freq_base")},
            tie_word_embeddings=False,
        )
        state = state_of(reader, QWEN_BLOCK, norms_hold_one=False)
        model = Qwen2ForCausalLM(config)
    else:
        config = Gemma3TextConfig(
            **common,
            head_dim=field("gemma3.attention.key_length"),
            query_pre_attn_scalar=field("gemma3.attention.key_length"),
            sliding_window=field("gemma3.attention.sliding_window"),
            tie_word_embeddings=True,
        )
        state = state_of(reader, GEMMA_BLOCK, norms_hold_one=True)
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model = Gemma3ForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise SystemExit(f"weights and model disagree: missing {missing}, unexpected {unexpected}")
    return model.eval().float()


@torch.inference_mode()
def greedy(model, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """`count` greedy tokens and the margin of each, through transformers' own KV cache."""
    tokens, margins, past = [], [], None
    inputs = torch.tensor([ids])
    for _ in range(count):
        out = model(input_ids=inputs, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = out.past_key_values
        best = torch.topk(out.logits[0, -1].float(), 2)
        tokens.append(int(best.indices[0]))
        margins.append(round(float(best.values[0] - best.values[1]), 6))
        inputs = best.indices[:1].view(1, 1)
    return tokens, margins


def round_to_8_bit(model) -> None:
    """Round every matrix in place to the values that MLX's 8-bit form of it holds."""
    for parameter in model.parameters():
        if parameter.ndim != 2:
            continue
        for start in range(0, parameter.shape[0], 16384):
            rows = parameter.data[start : start + 16384]
            packed, scales, biases = mx.quantize(mx.array(rows.numpy()), 64, 8)
            scales, biases = (a.astype(mx.float16).astype(mx.float32) for a in (scales, biases))
            rows.copy_(torch.from_numpy(np.array(mx.dequantize(packed, scales, biases, 64, 8))))


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens are equal."""
    return next((i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]), len(a))


def main() -> None:
    """Read the GGUF files and write real_models.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with the two GGUF files")
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    models = {}
    for key, file, prompts in (
        ("gemma-3-270m", "gemma-3-270m.gguf", GEMMA_PROMPTS),
        ("Qwen2.5-Coder-0.5B-Instruct", "Qwen2.5-Coder-0.5B-Instruct.gguf", QWEN_PROMPTS),
    ):
        path = folder / file
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        reader = gguf.GGUFReader(path)
        chat = "tokenizer.chat_template" in reader.fields
        model = model_of(reader)
        cases = []
        for prompt in prompts:
            if chat:
                text = tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}],
                    tokenize=False,
                    add_generation_prompt=True,
                )
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            else:
                text = prompt
                ids = [2, *tokenizer(text, add_special_tokens=False)["input_ids"]]
            tokens, margins = greedy(model, ids, NEW_TOKENS)
            print(key, repr(prompt), len(ids), "->", repr(tokenizer.decode(tokens)), min(margins))
            cases.append(
                {
                    "prompt": prompt,
                    "prompt_ids": ids,
                    "tokens": tokens,
                    "text": tokenizer.decode(tokens),
                    "margins": margins,
                }
            )
        round_to_8_bit(model)
        for case in cases:
            tokens, _ = greedy(model, case["prompt_ids"], NEW_TOKENS)
            case["equal_in_8_bit"] = common_prefix(tokens, case["tokens"])
            print(key, repr(case["prompt"]), "8 bit:", case["equal_in_8_bit"], flush=True)
        models[key] = {
            "gguf": file,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "chat": chat,
            "cases": cases,
        }
        del model
    versions = {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "gguf": importlib.metadata.version("gguf"),
        "mlx": mx.__version__,
    }
    target = HERE / "real_models.json"
    target.write_text(json.dumps({"versions": versions, "models": models}, indent=1) + "\n")


if __name__ == "__main__":
    main()
