"""GGUF -> a folder in MLX's layout: safetensors, config.json, tokenizer.json, chat template. Needs numpy (extra
`convert`).

    model.safetensors        linears and embedding packed as MLX affine; vectors in the smallest float that holds them
    config.json              Hugging Face keys, `quantization` as mlx_lm writes it; written last, so a broken-off
                             conversion is no model
    tokenizer.json, tokenizer_config.json (with chat_template), generation_config.json

One tensor is in memory at a time, in runs of rows.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from py_engine.convert.gguf import Gguf, GgufTensor, parse_gguf
from py_engine.convert.gguf_tokenizer import build_tokenizer
from py_engine.errors import FormatError, InputError, ModelError
from py_engine.sources.config import BITS, GROUP_SIZES
from py_engine.sources.rope_config import rope
from py_engine.weights.mlx_quant import packed_words

try:
    import numpy as np
    from numpy.typing import NDArray

    from py_engine.convert.gguf_blocks import affine, dequantise, group_fields
except ImportError as error:
    raise InputError(
        "Converting needs numpy, which is not installed: pip install 'jerboa[convert]'."
    ) from error

Floats = NDArray[np.float32]
Words = NDArray[np.uint32]

RUN_ELEMENTS = 4 << 20  # values dequantised at once
PLAIN_BITS = (16, 32)
MIN_SCALE_EPS = 1e-7  # of mlx's quantiser

# GGUF block names -> Hugging Face names, per family where they differ.
BLOCK_NAMES: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA_BLOCK_NAMES: Mapping[str, str] = {
    **BLOCK_NAMES,
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_EMBEDDINGS = ("model.embed_tokens", "lm_head")
# What Llama 3's scaling divides each pair's frequency by, in place of the settings that it follows from.
_ROPE_FACTORS = "rope_freqs.weight"
TOP_NAMES: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


@dataclass(frozen=True)
class Family:
    """What differs between the architectures that can be converted."""

    model_type: str
    hf_class: str
    blocks: Mapping[str, str]
    norm_offset: float = 0.0  # GGUF's norm weights minus Hugging Face's
    paired: bool = False  # q and k hold the halves of a head side by side: see GgufTensor


_QKV_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias")
_ATTENTION_BIASES = (*_QKV_BIASES, "attn_output.bias")
_MLP_BIASES = ("ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")
_NO_HEAD_NORMS = {k: v for k, v in BLOCK_NAMES.items() if not k.endswith(("q_norm", "k_norm"))}
FAMILIES: Mapping[str, Family] = {
    "llama": Family("llama", "LlamaForCausalLM", _NO_HEAD_NORMS, paired=True),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM", _NO_HEAD_NORMS),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", BLOCK_NAMES),
    "gemma3": Family("gemma3_text", "Gemma3ForCausalLM", GEMMA_BLOCK_NAMES, 1.0),
}
# Settings that change what a model computes and have no place in these families' config.json.
_NOT_CARRIED = (
    "attn_logit_softcapping", "final_logit_softcapping", "expert_count", "logit_scale", "attention.scale",
    "residual_scale", "embedding_scale",
)  # fmt: skip


def convert(
    path: str | Path,
    out: str | Path,
    bits: int = 4,
    group_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    embedding_bits: int | None = None,
) -> dict[str, Any]:
    """Convert a GGUF file of one of FAMILIES into folder `out`; returns its config.json.

    `bits`: 2, 3, 4, 5, 6 or 8 quantise every linear layer and the embedding in groups of `group_size` (those whose
    input is not a multiple of it stay plain, as in mlx_lm). Groups of 32 are GGUF's own: there the blocks that fit
    into `bits` are taken over without loss (Q8_0 into 8, Q5_0 into 5 and more, Q4_0 into 4 and more), K blocks up to
    the rounding of their scales. `embedding_bits`: of the embedding and the head, if not `bits`; small models lose most
    there. 16 leaves all plain in f16 (bf16 where f16 would
    overflow); 32 is exact. `on_progress(done, total)` counts values. Raises InputError, FormatError, ModelError.
    """
    if bits not in (*BITS, *PLAIN_BITS):
        raise InputError(
            f"--bits {bits}: choose one of {', '.join(map(str, (*BITS, *PLAIN_BITS)))}."
        )
    if group_size not in GROUP_SIZES:
        raise InputError(
            f"--group-size {group_size}: choose one of {', '.join(map(str, GROUP_SIZES))}."
        )
    if embedding_bits is not None and not (bits in BITS and embedding_bits in BITS):
        raise InputError(
            f"--embedding-bits {embedding_bits} with --bits {bits}: both must be one of {', '.join(map(str, BITS))}."
        )
    source, folder = Path(path).expanduser(), Path(out).expanduser()
    try:
        with source.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise FormatError(f"{source} is empty; it is not a GGUF file.")
            # Views of the map live as long as some array does; the map closes with the last of them.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror}).") from error
    gguf = parse_gguf(data, str(source))
    family = _family(gguf, str(source))
    names = _names(gguf, family, str(source))
    config = _config(gguf, family, names, str(source))
    if _ROPE_FACTORS in gguf.tensors:
        factors = dequantise(gguf.tensors[_ROPE_FACTORS], data).reshape(-1)
        config["rope_scaling"] = _llama3(factors, config, str(source))
    _check_shapes(config, names, str(source))
    tokenizer = build_tokenizer(gguf.metadata, str(source))
    if len(tokenizer.tokenizer["model"]["vocab"]) > config["vocab_size"]:
        raise FormatError(f"{source}: more tokens than rows of the embedding. The file is damaged.")
    config["bos_token_id"], config["eos_token_id"] = tokenizer.bos_id, tokenizer.eos_ids
    if tokenizer.pad_id is not None:
        config["pad_token_id"] = tokenizer.pad_id
    if bits in BITS:
        packing: dict[str, Any] = {"group_size": group_size, "bits": bits, "mode": "affine"}
        for name in _EMBEDDINGS if embedding_bits not in (None, bits) else ():
            if f"{name}.weight" in names and config["hidden_size"] % group_size == 0:
                packing[name] = {"group_size": group_size, "bits": embedding_bits}
        config["quantization"] = config["quantization_config"] = packing

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    if family.paired:
        for name, tensor in names.items():
            if ".q_proj." in name or ".k_proj." in name:
                names[name] = replace(tensor, paired=config["head_dim"])
    widths = dict.fromkeys(_EMBEDDINGS, embedding_bits or bits)
    work = _plan(names, family, data, bits, group_size, widths)
    total, done = sum(math.prod(w.tensor.shape) for w in work), 0
    with _Writer(folder / "model.safetensors", work) as writer:
        for item in work:
            for values in item.write(writer):
                done += values
                if on_progress is not None:
                    on_progress(done, total)
    generation = {"eos_token_id": tokenizer.eos_ids, **_sampling(gguf)}
    for key in ("bos_token_id", "pad_token_id"):
        if config.get(key) is not None:
            generation[key] = config[key]
    _write_json(folder / "tokenizer.json", tokenizer.tokenizer, indent=None)
    _write_json(folder / "tokenizer_config.json", tokenizer.config)
    _write_json(folder / "generation_config.json", generation)
    config = {key: value for key, value in sorted(config.items()) if value is not None}
    _write_json(folder / "config.json", config)
    return config


def _write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=indent, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


# -- names and config ------------------------------------------------------------------------------


def _family(gguf: Gguf, where: str) -> Family:
    architecture = gguf.metadata.get("general.architecture")
    family = FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if family is None:
        raise ModelError(
            f"{where}: architecture {architecture!r} cannot be converted; supported: {', '.join(FAMILIES)}."
        )
    return family


def _names(gguf: Gguf, family: Family, where: str) -> dict[str, GgufTensor]:
    """Hugging Face name -> tensor. Raises ModelError for a tensor that has no place."""
    named: dict[str, GgufTensor] = {}
    for name, tensor in gguf.tensors.items():
        stem, _, suffix = name.rpartition(".")
        if name == _ROPE_FACTORS:
            continue  # goes into the config
        target = TOP_NAMES.get(stem)
        block = stem.split(".")
        if len(block) == 3 and block[0] == "blk" and block[1].isdecimal() and len(block[1]) < 6:
            inner = family.blocks.get(block[2])
            target = f"model.layers.{int(block[1])}.{inner}" if inner else None
        if target is None or suffix not in ("weight", "bias"):
            raise ModelError(
                f"{where}: tensor {name!r} has no place in {family.model_type}. It is a variant that is"
                " not supported; take another GGUF of the model."
            )
        named[f"{target}.{suffix}"] = tensor
    return named


def _config(
    gguf: Gguf, family: Family, names: Mapping[str, GgufTensor], where: str
) -> dict[str, Any]:
    metadata = gguf.metadata
    architecture = metadata["general.architecture"]

    def number(key: str, low: float, high: float, default: float | None = None) -> Any:
        value = metadata.get(f"{architecture}.{key}", default)
        kind = int if isinstance(low, int) else float
        if type(value) not in (int, kind) or value is None or not low <= value <= high:
            raise ModelError(
                f"{where}: {architecture}.{key} is {value!r}, expected a number from {low:g} to {high:g}."
            )
        return value if kind is int else _shortest(value)

    hidden = number("embedding_length", 1, 1 << 16)
    heads = number("attention.head_count", 1, 1024)
    embedding = names.get("model.embed_tokens.weight")
    if embedding is None:
        raise FormatError(f"{where}: tensor token_embd.weight is missing. Fetch the file again.")
    head_dim = number("attention.key_length", 1, 4096, hidden // heads)
    config: dict[str, Any] = {
        "architectures": [family.hf_class],
        "model_type": family.model_type,
        "hidden_size": hidden,
        "num_hidden_layers": number("block_count", 1, 1024),
        "intermediate_size": number("feed_forward_length", 1, 1 << 20),
        "num_attention_heads": heads,
        "num_key_value_heads": number("attention.head_count_kv", 1, 1024, heads),
        "head_dim": head_dim,
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon", 0.0, 1.0),
        "rope_theta": number("rope.freq_base", 1.0, 1e12, 10000.0),
        "max_position_embeddings": number("context_length", 1, 1 << 30),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "lm_head.weight" not in names,
        "torch_dtype": "float16",
        "attention_bias": any(".self_attn." in n and n.endswith(".bias") for n in names),
        "attention_dropout": 0.0,
    }
    for key in _NOT_CARRIED:
        if metadata.get(f"{architecture}.{key}"):
            raise ModelError(
                f"{where}: {architecture}.{key} is set, which {family.model_type} models do not have."
                " It is a variant that is not supported."
            )
    if number("rope.dimension_count", 1, 4096, head_dim) != head_dim:
        raise ModelError(
            f"{where}: {architecture}.rope.dimension_count rotates a part of each head only, which"
            f" {family.model_type} models do not do. It is a variant that is not supported."
        )
    if config["num_attention_heads"] % config["num_key_value_heads"]:
        raise ModelError(f"{where}: {heads} heads do not share their key/value heads evenly.")
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling == "linear":
        factor = number("rope.scaling.factor", 1.0, 1e4)
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    elif scaling == "yarn":
        config["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": number("rope.scaling.factor", 1.0, 1e4),
            "original_max_position_embeddings": number(
                "rope.scaling.original_context_length", 1, 1 << 30
            ),
        }
    elif scaling != "none":
        raise ModelError(f"{where}: rope scaling {scaling!r} is not supported.")
    if family.model_type == "gemma3_text":
        # Not in the file: llama.cpp knows them by architecture (llama-model.cpp, LLM_ARCH_GEMMA3).
        window = number("attention.sliding_window", 1, 1 << 24)
        config |= {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": hidden // heads
            if config["num_hidden_layers"] == 62
            else head_dim,
            "sliding_window": window,
            "sliding_window_pattern": 6,
            "rope_local_base_freq": number("rope.freq_base_swa", 1.0, 1e12, 10000.0),
        }
    else:
        config["hidden_act"] = "silu"
    if family.model_type.startswith("qwen"):
        config["use_sliding_window"] = False
    if family.model_type == "llama":
        config["mlp_bias"] = any(".mlp." in n and n.endswith(".bias") for n in names)
    return config


def _llama3(factors: Floats, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The rope scaling that gives these factors: Llama 3's, the one whose models carry them."""
    scaling = {
        "rope_type": "llama3",
        "factor": _shortest(float(factors.max())),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    width = config["head_dim"]
    plain = rope({"rope_theta": config["rope_theta"]}).frequencies(width)
    scaled = rope({**config, "rope_scaling": scaling}).frequencies(width)
    wanted = np.array(plain, np.float64) / np.array(scaled, np.float64)
    if factors.shape != wanted.shape or not np.allclose(factors, wanted, rtol=1e-4):
        raise ModelError(
            f"{where}: {_ROPE_FACTORS} is not the scaling of Llama 3.1 or 3.2. It is a variant that is not"
            " supported; take the model's safetensors."
        )
    return scaling


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-06 for 9.999999974752427e-07."""
    single = struct.pack("<f", value)
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == single:
            return short
    return float(value)


def _check_shapes(config: Mapping[str, Any], names: Mapping[str, GgufTensor], where: str) -> None:
    """Every tensor there and of the shape that the numbers say."""
    family = next(f for f in FAMILIES.values() if f.model_type == config["model_type"])
    hidden, width, d = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q.weight": (queries, hidden),
        "attn_k.weight": (keys, hidden),
        "attn_v.weight": (keys, hidden),
        "attn_output.weight": (hidden, queries),
        "ffn_gate.weight": (width, hidden),
        "ffn_up.weight": (width, hidden),
        "ffn_down.weight": (hidden, width),
        "attn_q_norm.weight": (d,),
        "attn_k_norm.weight": (d,),
        "attn_q.bias": (queries,),
        "attn_k.bias": (keys,),
        "attn_v.bias": (keys,),
        "ffn_gate.bias": (width,),
        "ffn_up.bias": (width,),
    }
    wanted: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        wanted["lm_head.weight"] = (config["vocab_size"], hidden)
    biases: tuple[str, ...] = ()
    if family.model_type == "qwen2":
        biases = _QKV_BIASES
    elif config["attention_bias"]:
        biases = _ATTENTION_BIASES
    if config.get("mlp_bias"):
        biases += _MLP_BIASES
    for layer in range(config["num_hidden_layers"]):
        for stem in (*(f"{stem}.weight" for stem in family.blocks), *biases):
            name, _, suffix = stem.rpartition(".")
            full = f"model.layers.{layer}.{family.blocks[name]}.{suffix}"
            wanted[full] = shapes.get(stem, (hidden,))
    for name, shape in wanted.items():
        tensor = names.get(name)
        if tensor is None or tensor.shape != shape:
            got = "missing" if tensor is None else f"{list(tensor.shape)}"
            raise ModelError(
                f"{where}: {name} is {got}, expected {list(shape)} from the file's own numbers."
                " The file is damaged: fetch it again."
            )
    for name in names:
        if name not in wanted:
            raise ModelError(f"{where}: {name} is not part of a {config['model_type']}.")


def _sampling(gguf: Gguf) -> dict[str, Any]:
    """Sampling defaults, where the file brings some."""
    found: dict[str, Any] = {}
    for key, name in (("temp", "temperature"), ("top_k", "top_k"), ("top_p", "top_p")):
        value = gguf.metadata.get(f"general.sampling.{key}")
        if type(value) is int:
            found[name] = value
        elif type(value) is float and math.isfinite(value):
            found[name] = _shortest(value)
    return found | ({"do_sample": True} if found.get("temperature") else {})


# -- tensors ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A tensor to be written; `dtype` may still change to one of equal size."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * {"F32": 4, "U32": 4, "F16": 2, "BF16": 2}[self.dtype]


class _Item:
    """A source tensor and the parts that it becomes."""

    tensor: GgufTensor
    parts: list[_Part]

    def write(self, writer: _Writer) -> Iterator[int]:
        """Write all parts; yields values done."""
        raise NotImplementedError


class _Vector(_Item):
    """A norm weight or bias, in the smallest float type that holds it exactly."""

    def __init__(self, name: str, tensor: GgufTensor, data: Any, offset: float) -> None:
        self.tensor = tensor
        stored = dequantise(tensor, data).reshape(-1)
        values = stored - np.float32(offset)
        self.dtype, self.raw = "F32", values.astype("<f4").tobytes()
        for dtype in ("BF16", "F16"):
            raw = _narrow(values, dtype)
            # With an offset, what must come back is the stored sum: the difference has rounding of its own.
            if np.array_equal(_widen(raw, dtype) + np.float32(offset), stored):
                self.dtype, self.raw = dtype, raw.tobytes()
                break
        self.parts = [_Part(name, self.dtype, tensor.shape)]

    def write(self, writer: _Writer) -> Iterator[int]:
        writer.write(self.parts[0], 0, self.raw)
        yield math.prod(self.tensor.shape)


class _Plain(_Item):
    """A matrix left as floats."""

    def __init__(self, name: str, tensor: GgufTensor, data: Any, bits: int) -> None:
        self.tensor, self.data = tensor, data
        self.parts = [_Part(name, "F32" if bits == 32 else "F16", tensor.shape)]

    def write(self, writer: _Writer) -> Iterator[int]:
        part, at = self.parts[0], 0
        if part.dtype == "F16":
            worst = max(float(np.abs(run).max()) for _, run in _runs(self.tensor, self.data))
            if worst > float(np.finfo(np.float16).max):
                part = writer.change(part, "BF16")
        for _, run in _runs(self.tensor, self.data):
            raw = _narrow(run, part.dtype).tobytes()
            writer.write(part, at, raw)
            at += len(raw)
            yield run.size


class _Packed(_Item):
    """A matrix in MLX's affine form. With groups of 32, types whose fields fit are taken over as they are: their own
    fields, and their scales and biases rounded to f16 (exact for Q8_0, Q5_0, Q4_0, whose scales are f16 already)."""

    def __init__(self, name: str, tensor: GgufTensor, data: Any, bits: int, group: int) -> None:
        self.tensor, self.data, self.bits, self.group = tensor, data, bits, group
        stem = name.removesuffix(".weight")
        rows, cols = tensor.shape
        levels = group_fields(tensor.type.name)
        self.exact = group == 32 and levels is not None and levels <= 2**bits
        self.parts = [
            _Part(name, "U32", (rows, packed_words(cols, bits))),
            _Part(f"{stem}.scales", "F16", (rows, cols // group)),
            _Part(f"{stem}.biases", "F16", (rows, cols // group)),
        ]

    def write(self, writer: _Writer) -> Iterator[int]:
        weight, scales, biases = self.parts
        dtype = self._scale_dtype()
        if dtype != scales.dtype:
            scales, biases = writer.change(scales, dtype), writer.change(biases, dtype)
        at = [0, 0, 0]
        for first, run in _runs(self.tensor, self.data):
            if self.exact:
                made = self._take_over(first, run, dtype)
            else:
                made = quantise(run, self.bits, self.group, dtype)
            for i, (part, array) in enumerate(zip((weight, scales, biases), made, strict=True)):
                raw = array.tobytes()
                writer.write(part, at[i], raw)
                at[i] += len(raw)
            yield run.size

    def _take_over(
        self, first: int, run: Floats, dtype: str
    ) -> tuple[Words, NDArray[Any], NDArray[Any]]:
        """What `quantise` gives, from the file's own fields."""
        rows = run.shape[0]
        own = affine(self.tensor, self.data, first, first + rows)
        fields = own.fields.reshape(rows, -1)
        scales, biases = own.scale.reshape(rows, -1), own.bias.reshape(rows, -1)
        return pack(fields, self.bits), _narrow(scales, dtype), _narrow(biases, dtype)

    def _scale_dtype(self) -> str:
        """f16 has three more bits than bf16 and so is closer, unless scales overflow it or many fall below 2^-16,
        where it has fewer."""
        small = count = 0
        for first, run in _runs(self.tensor, self.data):
            if self.exact:
                own = affine(self.tensor, self.data, first, first + run.shape[0])
                scales, biases = own.scale, own.bias
            else:
                scales, biases = affine_groups(run, self.bits, self.group)
            largest = max(float(np.abs(scales).max()), float(np.abs(biases).max()))
            if largest > float(np.finfo(np.float16).max):
                return "BF16"
            used = np.abs(scales) > 2 * MIN_SCALE_EPS  # groups that are not constant
            small += int(np.count_nonzero(used & (np.abs(scales) < 2.0**-16)))
            count += int(np.count_nonzero(used))
        return "BF16" if small * 1000 > count else "F16"


def _plan(
    names: Mapping[str, GgufTensor],
    family: Family,
    data: Any,
    bits: int,
    group: int,
    widths: Mapping[str, int],
) -> list[_Item]:
    """`widths`: of the modules that do not get `bits`."""
    items: list[_Item] = []
    for name, tensor in names.items():
        if len(tensor.shape) == 1:
            offset = family.norm_offset if name.endswith("norm.weight") else 0.0
            items.append(_Vector(name, tensor, data, offset))
        elif bits in PLAIN_BITS or tensor.shape[-1] % group:
            items.append(_Plain(name, tensor, data, bits))
        else:
            width = widths.get(name.removesuffix(".weight"), bits)
            items.append(_Packed(name, tensor, data, width, group))
    return items


def _runs(tensor: GgufTensor, data: Any) -> Iterator[tuple[int, Floats]]:
    """A matrix as float32, some rows at a time, with the first row's number. Raises FormatError for NaN, infinity."""
    step = max(1, RUN_ELEMENTS // tensor.shape[-1])
    for first in range(0, tensor.rows, step):
        run = dequantise(tensor, data, first, min(first + step, tensor.rows))
        if not np.isfinite(run).all():
            raise FormatError(f"{tensor.name} holds NaN or infinity. The file is damaged.")
        yield first, run


def _narrow(values: Floats, dtype: str) -> NDArray[Any]:
    """float32 -> "F32", "F16" or "BF16" (as uint16), rounded to nearest even."""
    if dtype == "F32":
        return values.astype("<f4")
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype("<f2")
    word = values.astype("<f4").view("<u4")
    rounded: NDArray[Any] = ((word + 0x7FFF + (word >> 16 & 1)) >> 16).astype("<u2")
    return rounded


def _widen(raw: NDArray[Any], dtype: str) -> Floats:
    """The float32 values of what `_narrow` made."""
    if dtype == "BF16":
        wide: Floats = (raw.astype(np.uint32) << 16).view(np.float32)
        return wide
    return raw.astype(np.float32)


def affine_groups(values: Floats, bits: int, group: int) -> tuple[Floats, Floats]:
    """Scale and bias of each group of `values` [rows, cols], [rows, cols / group], as mlx's quantiser chooses them
    (mlx/backend/cpu/quantized.cpp, `quantize`): from the end of larger magnitude, which stays exact, so that zero is
    a step."""
    groups = values.reshape(values.shape[0], -1, group)
    low, high = groups.min(axis=2), groups.max(axis=2)
    at_low = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / np.float32(2**bits - 1), np.float32(MIN_SCALE_EPS))
    scale = np.where(at_low, scale, -scale)
    edge = np.where(at_low, low, high)
    steps = np.rint(edge / scale)
    zero = steps == 0
    scale = np.where(zero, scale, edge / np.where(zero, np.float32(1), steps))
    return scale, np.where(zero, np.float32(0), edge)


def quantise(
    values: Floats, bits: int, group: int, dtype: str = "F32"
) -> tuple[Words, NDArray[Any], NDArray[Any]]:
    """MLX affine form of `values` [rows, cols]: words [rows, cols * bits / 32], scales and biases [rows, cols / group]
    of `dtype` ("F32", "F16", or "BF16" as uint16).

    With F32 equal to mlx.core.quantize. With narrower scales the fields are chosen for the scales as rounded (mlx
    rounds afterwards), so that less is lost.
    """
    scale, bias = affine_groups(values, bits, group)
    scales, biases = _narrow(scale, dtype), _narrow(bias, dtype)
    scale, bias = _widen(scales, dtype)[:, :, None], _widen(biases, dtype)[:, :, None]
    groups = values.reshape(values.shape[0], -1, group)
    scale = np.where(scale == 0, np.float32(1), scale)
    fields = np.clip(np.rint((groups - bias) / scale), 0, 2**bits - 1).astype(np.uint8)
    return pack(fields.reshape(values.shape), bits), scales, biases


def pack(fields: NDArray[np.uint8], bits: int) -> Words:
    """Fields [rows, cols] below 2^bits -> words [rows, cols * bits / 32], lowest bits first."""
    if bits == 8:
        return np.ascontiguousarray(fields).view("<u4")
    if bits in (2, 4):
        per = 8 // bits
        parts = fields.reshape(fields.shape[0], -1, per)
        packed = parts[:, :, 0].copy()
        for i in range(1, per):
            packed |= parts[:, :, i] << np.uint8(i * bits)
        return packed.view("<u4")
    stream = np.unpackbits(fields[:, :, None], axis=2, count=bits, bitorder="little")
    return np.packbits(stream.reshape(fields.shape[0], -1), axis=1, bitorder="little").view("<u4")


class _Writer:
    """A safetensors file whose header is written last (padded with spaces to the length set aside for it)."""

    def __init__(self, path: Path, items: list[_Item]) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._entries: dict[str, _Part] = {}
        self._starts: dict[str, int] = {}
        at = 0
        for item in items:
            for part in item.parts:
                self._entries[part.name] = part
                self._starts[part.name] = at
                at += part.nbytes
        # No dtype is longer than "BF16", offsets do not change: this is the longest that the header can be.
        longest = json.dumps(self._header() | {"": "x" * 2 * len(self._entries)})
        self._header_bytes = -(-len(longest) // 8) * 8
        self._size = at

    def _header(self) -> dict[str, Any]:
        header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        for name, part in self._entries.items():
            start = self._starts[name]
            header[name] = {
                "dtype": part.dtype,
                "shape": list(part.shape),
                "data_offsets": [start, start + part.nbytes],
            }
        return header

    def __enter__(self) -> _Writer:
        self._file = self._partial.open("wb")
        return self

    def change(self, part: _Part, dtype: str) -> _Part:
        """Give a part another dtype of the same size."""
        made = _Part(part.name, dtype, part.shape)
        assert made.nbytes == part.nbytes
        self._entries[part.name] = made
        return made

    def write(self, part: _Part, at: int, raw: bytes) -> None:
        """Bytes of a part, `at` bytes into it."""
        self._file.seek(8 + self._header_bytes + self._starts[part.name] + at)
        self._file.write(raw)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            return
        header = json.dumps(self._header()).encode().ljust(self._header_bytes)
        self._file.seek(0)
        self._file.write(len(header).to_bytes(8, "little") + header)
        self._file.close()
        self._partial.replace(self._path)
