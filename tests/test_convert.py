"""GGUF -> a folder in MLX layout: values, names, configs and tokenizers of all families, and the quantiser against
mlx's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from py_engine.convert.convert import convert
from py_engine.convert.gguf import TYPES as READ_TYPES
from py_engine.convert.gguf import GgufTensor, parse_gguf
from py_engine.convert.gguf_blocks import affine, dequantise, group_fields
from py_engine.convert.packing import pack, quantise
from py_engine.convert.tensors import Packed
from py_engine.convert.writer import Writer
from py_engine.errors import EngineError, FormatError, InputError, ModelError
from py_engine.host.io_native import NativeIo
from py_engine.sources.address import open_repository
from py_engine.sources.config import quantization, read_config
from py_engine.sources.jobs import TensorInfo
from py_engine.sources.safetensors import read_tensors
from py_engine.weights.mlx_quant import quantization_of
from tests.gguf_writer import TYPES, byte_level_metadata, float_tensor, write_gguf
from tests.test_gguf import sentencepiece_metadata

Floats = NDArray[np.float32]

# The first 16 digits of the sha256 of words, scales and biases that mx.quantize of mlx 0.32.4 makes of `mlx_input()`,
# by bits and group.
MLX = {
    (2, 32): "5f9958f921e34eb9",
    (2, 64): "f516907deb40c705",
    (2, 128): "2f13d957fdc73e53",
    (3, 32): "bca3a0c9191a108a",
    (3, 64): "ad5a50a5fc1fc98f",
    (3, 128): "bbd9dd30b255f879",
    (4, 32): "ea0a28a82d21546a",
    (4, 64): "2a0846ca6b19a007",
    (4, 128): "bca29695d3a3ae6e",
    (5, 32): "426b2a01cf34251f",
    (5, 64): "39c18a6a9220c6ed",
    (5, 128): "0272de6ce80e228e",
    (6, 32): "ac72db27261393b2",
    (6, 64): "056a59fd62117165",
    (6, 128): "282e79a9f19fe376",
    (8, 32): "519fd86e8a880df0",
    (8, 64): "571546424830c12e",
    (8, 128): "cf8b14e11a9a3bb9",
}


def mlx_input() -> Floats:
    rng = np.random.default_rng(11)
    w = (rng.standard_normal((9, 256)) * rng.uniform(1e-3, 2, (9, 1))).astype(np.float32)
    w[3] = 0
    w[4, :64] = 0.7
    w[5] = np.abs(w[5])
    w[6] = -np.abs(w[6])
    return w


def unpack(words: NDArray[Any], bits: int, cols: int) -> NDArray[Any]:
    """Fields by their definition: bits [i*b, i*b+b) of a row's little-endian stream."""
    rows = []
    for row in words:
        stream = int.from_bytes(row.astype("<u4").tobytes(), "little")
        rows.append([stream >> i * bits & (1 << bits) - 1 for i in range(cols)])
    return np.array(rows)


@pytest.mark.parametrize(("bits", "group"), MLX)
def test_quantiser_equals_mlx(bits: int, group: int) -> None:
    digest = hashlib.sha256()
    for array in quantise(mlx_input(), bits, group):
        digest.update(array.tobytes())
    assert digest.hexdigest()[:16] == MLX[bits, group]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_pack(bits: int) -> None:
    fields = np.random.default_rng(bits).integers(0, 1 << bits, (3, 96)).astype(np.uint8)
    words = pack(fields, bits)
    assert words.shape == (3, 3 * bits) and words.dtype == np.uint32
    assert np.array_equal(unpack(words, bits, 96), fields)


def model(kind: str, *, tied: bool = True, layers: int = 2) -> bytes:
    """A tiny random GGUF file of a family. Its hidden size is 64 and its MLP width 96, so with groups of 64 `down_proj`
    stays plain."""
    rng = np.random.default_rng(4)
    tokenizer = sentencepiece_metadata() if kind == "gemma3" else byte_level_metadata()
    vocab = len(tokenizer["tokenizer.ggml.tokens"]) + 3
    h, width, heads, keys, d = 64, 96, 2, 1, 32
    metadata: dict[str, Any] = {
        "general.architecture": kind,
        f"{kind}.embedding_length": h,
        f"{kind}.block_count": layers,
        f"{kind}.feed_forward_length": width,
        f"{kind}.attention.head_count": heads,
        f"{kind}.attention.head_count_kv": keys,
        f"{kind}.attention.layer_norm_rms_epsilon": float(np.float32(1e-6)),
        f"{kind}.rope.freq_base": 1e6,
        f"{kind}.context_length": 2048,
        **tokenizer,
    }
    if kind not in ("llama", "qwen2"):
        metadata[f"{kind}.attention.key_length"] = d
    if kind == "gemma3":
        metadata["gemma3.attention.sliding_window"] = 16

    def matrix(rows: int, cols: int) -> Any:
        return float_tensor(rng.standard_normal((rows, cols)).astype(np.float32) * 0.1)

    def rotary(tensor: Any, kind: str) -> Any:
        """Reorder q and k of a Llama as llama.cpp's converter does: rows of the two halves of each head alternate."""
        if kind != "llama":
            return tensor
        name, shape, raw = tensor
        array = np.frombuffer(raw, "<f4").reshape(-1, 2, d // 2, h).swapaxes(1, 2)
        return name, shape, array.tobytes()

    def norm(n: int) -> Any:
        return float_tensor((1 + rng.integers(-8, 8, n) / 64).astype(np.float32))

    # A Q8_0 embedding: blocks of 32 with scale 1/64.
    raw = rng.integers(-127, 128, (vocab * 2, 32)).astype(np.int8)
    blocks = b"".join(np.float16(1 / 64).tobytes() + row.tobytes() for row in raw)
    tensors: dict[str, Any] = {"token_embd.weight": ("Q8_0", (vocab, h), blocks)}
    if not tied:
        tensors["output.weight"] = matrix(vocab, h)
    tensors["output_norm.weight"] = norm(h)
    for i in range(layers):
        block = {
            "attn_norm.weight": norm(h),
            "attn_q.weight": rotary(matrix(heads * d, h), kind),
            "attn_k.weight": rotary(matrix(keys * d, h), kind),
            "attn_v.weight": matrix(keys * d, h),
            "attn_output.weight": matrix(h, heads * d),
            "ffn_norm.weight": norm(h),
            "ffn_gate.weight": matrix(width, h),
            "ffn_up.weight": matrix(width, h),
            "ffn_down.weight": matrix(h, width),
        }
        if kind == "qwen2":
            for name, n in (("q", heads * d), ("k", keys * d), ("v", keys * d)):
                block[f"attn_{name}.bias"] = float_tensor(rng.standard_normal(n).astype("f4"))
        elif kind != "llama":
            block |= {"attn_q_norm.weight": norm(d), "attn_k_norm.weight": norm(d)}
        if kind == "gemma3":
            block |= {"post_attention_norm.weight": norm(h), "post_ffw_norm.weight": norm(h)}
        tensors |= {f"blk.{i}.{name}": tensor for name, tensor in block.items()}
    return write_gguf(metadata, tensors)


def load(folder: Path) -> tuple[dict[str, Any], dict[str, TensorInfo], dict[str, Floats]]:
    """Config, tensor infos (from the engine's reader) and float values (from the safetensors library, dequantised by
    definition)."""

    async def go() -> tuple[Any, dict[str, TensorInfo]]:
        repo = await open_repository(str(folder), NativeIo())
        return await read_config(repo), await read_tensors(repo)

    config, infos = asyncio.run(go())
    of = quantization_of(infos, quantization(config))
    whole = (folder / "model.safetensors").read_bytes()
    with safe_open(folder / "model.safetensors", "np") as file:
        assert set(file.keys()) == set(infos)
        assert file.metadata() == {"format": "mlx"}

    def floats(info: TensorInfo) -> Floats:
        raw = whole[info.start : info.end]
        if info.dtype == "BF16":
            array = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(raw, {"F16": "<f2", "F32": "<f4"}[info.dtype]).astype(np.float32)
        return array.reshape(info.shape)

    values: dict[str, Floats] = {}
    for name, info in infos.items():
        stem = name.removesuffix(".weight")
        packing = of(stem) if name.endswith(".weight") else None
        if name.endswith((".scales", ".biases")):
            continue
        if packing is None:
            values[name] = floats(info)
            continue
        words = np.frombuffer(whole[info.start : info.end], "<u4").reshape(info.shape)
        cols = info.shape[1] * 32 // packing.bits
        scales, biases = (
            np.repeat(floats(infos[f"{stem}.{part}"]), packing.group_size, axis=1)
            for part in ("scales", "biases")
        )
        values[name] = scales * unpack(words, packing.bits, cols) + biases
    return dict(config), infos, values


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma3"])
def test_exact_at_32_bits(tmp_path: Path, kind: str) -> None:
    """Every value is kept, under its Hugging Face name. Gemma's norms lose the one that GGUF adds."""
    (tmp_path / "m.gguf").write_bytes(model(kind))
    convert(tmp_path / "m.gguf", tmp_path / "out", 32, 64)
    config, infos, values = load(tmp_path / "out")
    assert "quantization" not in config
    rng = np.random.default_rng(4)
    vocab = config["vocab_size"]
    embedding = rng.integers(-127, 128, (vocab * 2, 32)).astype(np.int8).reshape(vocab, 64) / 64
    assert np.array_equal(values["model.embed_tokens.weight"], embedding.astype(np.float32))
    offset = 1 if kind == "gemma3" else 0
    norm = (1 + rng.integers(-8, 8, 64) / 64) - offset
    assert values["model.norm.weight"].tolist() == norm.tolist()
    assert infos["model.norm.weight"].dtype == "BF16"  # BF16 holds these values exactly
    first = (1 + rng.integers(-8, 8, 64) / 64) - offset
    assert values["model.layers.0.input_layernorm.weight"].tolist() == first.tolist()
    q = rng.standard_normal((64, 64)).astype(np.float32) * 0.1
    assert np.array_equal(values["model.layers.0.self_attn.q_proj.weight"], q.astype(np.float32))
    names = {n.removeprefix("model.layers.1.") for n in values if n.startswith("model.layers.1.")}
    wanted = {
        "input_layernorm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    }  # fmt: skip
    if kind not in ("llama", "qwen2"):
        wanted |= {"self_attn.q_norm", "self_attn.k_norm"}
    if kind == "gemma3":
        wanted |= {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
    biases = {f"self_attn.{p}_proj.bias" for p in "qkv"} if kind == "qwen2" else set()
    assert names == {f"{name}.weight" for name in wanted} | biases


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize(("bits", "group"), [(4, 64), (8, 32), (3, 32), (16, 64)])
def test_quantised(tmp_path: Path, kind: str, bits: int, group: int) -> None:
    (tmp_path / "m.gguf").write_bytes(model(kind, tied=kind != "qwen3"))
    seen: list[tuple[int, int]] = []
    made = convert(
        tmp_path / "m.gguf", tmp_path / "out", bits, group, lambda *progress: seen.append(progress)
    )
    convert(tmp_path / "m.gguf", tmp_path / "exact", 32, group)
    config, infos, values = load(tmp_path / "out")
    _, _, exact = load(tmp_path / "exact")
    assert config == made and seen[-1][0] == seen[-1][1] > 0
    assert values.keys() == exact.keys()
    packed = {n.removesuffix(".scales") for n in infos if n.endswith(".scales")}
    linears = {n.removesuffix(".weight") for n in exact if exact[n].ndim == 2}
    if bits == 16:
        assert packed == set() and "quantization" not in config
    else:
        # These have 96 columns.
        plain = {n for n in linears if n.endswith("down_proj") and group == 64}
        assert packed == linears - plain
        assert config["quantization"] == {"group_size": group, "bits": bits, "mode": "affine"}
        assert config["quantization_config"] == config["quantization"]
        assert infos["model.embed_tokens.scales"].dtype == "F16"
    for name, value in values.items():
        worst = float(np.abs(value - exact[name]).max())
        if exact[name].ndim == 1 or bits == 16:
            assert worst <= 2.0**-11 * float(np.abs(exact[name]).max())
            continue
        if name.removesuffix(".weight") not in packed:
            assert worst <= 2.0**-11 * float(np.abs(exact[name]).max())
            continue
        # Snapping to whole steps moves the far end by at most half a step, and rounding adds half a step more. f16
        # scales are off by at most 2^-11 of up to 255 steps.
        step = float(np.ptp(exact[name].reshape(-1, group), axis=1).max()) / (2**bits - 1)
        assert worst <= 1.15 * step, name
    assert config["tie_word_embeddings"] is (kind != "qwen3")
    assert ("lm_head.weight" in values) is (kind == "qwen3")


def test_groups_of_32_keep_blocks_as_they_are(tmp_path: Path) -> None:
    """8 bits hold a Q8_0 embedding exactly. Requantising it would not."""
    (tmp_path / "m.gguf").write_bytes(model("qwen3"))
    for group in (32, 64):
        convert(tmp_path / "m.gguf", tmp_path / str(group), 8, group)
    convert(tmp_path / "m.gguf", tmp_path / "exact", 32, 32)
    name = "model.embed_tokens.weight"
    want = load(tmp_path / "exact")[2][name]
    assert np.array_equal(load(tmp_path / "32")[2][name], want)
    assert not np.array_equal(load(tmp_path / "64")[2][name], want)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K"])
@pytest.mark.parametrize("bits", [4, 5, 8])
def test_block_types_taken_over(tmp_path: Path, kind: str, bits: int) -> None:
    """For every type whose fields fit, the values equal the float32 ones, apart from rounding scale and bias to f16."""
    number, elements, nbytes = TYPES[kind]
    levels = group_fields(kind)
    assert levels is not None
    rng = np.random.default_rng(number)
    raw = rng.integers(0, 256, (6, nbytes), dtype=np.uint8)
    for at in (0, 2) if kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else (0,):
        raw[:, at : at + 2] = rng.uniform(0.5, 1, 6).astype("<f2").view(np.uint8).reshape(6, 2)
    tensor = GgufTensor("x", READ_TYPES[number], (3, 2 * elements), 0)
    item = Packed("x.weight", tensor, raw.tobytes(), bits, 32)
    assert item.exact is (levels <= 2**bits)
    with Writer(tmp_path / "model.safetensors", item.parts) as writer:
        assert sum(item.write(writer)) == 6 * elements
    config = {"model_type": "x", "quantization": {"bits": bits, "group_size": 32}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    got = load(tmp_path)[2]["x.weight"]
    want = dequantise(tensor, raw.tobytes())
    if item.exact:
        largest = float(np.abs(affine(tensor, raw.tobytes()).bias).max()) + float(np.ptp(want))
        assert np.abs(got - want).max() <= (2.0**-11 * largest if "K" in kind else 0)


def test_configs(tmp_path: Path) -> None:
    (tmp_path / "g.gguf").write_bytes(model("gemma3"))
    gemma = convert(tmp_path / "g.gguf", tmp_path / "gemma", 8, 32)
    assert gemma["model_type"] == "gemma3_text"
    assert gemma["rms_norm_eps"] == 1e-6 and gemma["rope_theta"] == 1e6
    assert gemma["rope_local_base_freq"] == 1e4 and gemma["sliding_window_pattern"] == 6
    assert gemma["query_pre_attn_scalar"] == 32 and gemma["sliding_window"] == 16
    assert gemma["eos_token_id"] == [1, 5] and gemma["bos_token_id"] == 2
    files = {p.name for p in (tmp_path / "gemma").iterdir()}
    assert files == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    generation = json.loads((tmp_path / "gemma" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [1, 5], "bos_token_id": 2, "pad_token_id": 0}
    tokenizer = json.loads((tmp_path / "gemma" / "tokenizer_config.json").read_text())
    assert tokenizer["chat_template"] == "{{ messages }}"

    (tmp_path / "q.gguf").write_bytes(model("qwen2"))
    qwen = convert(tmp_path / "q.gguf", tmp_path / "qwen", 8, 32)
    assert qwen["model_type"] == "qwen2" and qwen["head_dim"] == 32 and qwen["attention_bias"]


def llama_with(*, metadata: dict[str, Any], tensors: dict[str, Any]) -> bytes:
    """`model("llama")` with more metadata and tensors."""
    made = parse_gguf(model("llama"), "m")
    old = model("llama")
    kept = {
        t.name: (t.type.name, t.shape, old[t.start : t.start + t.nbytes])
        for t in made.tensors.values()
    }
    return write_gguf({**made.metadata, **metadata}, {**kept, **tensors})


def test_llama_biases_and_scaled_positions(tmp_path: Path) -> None:
    """Biases of q and k are ordered as their rows are. Llama 3's factors become the settings that they were computed
    from."""
    rng = np.random.default_rng(1)
    wanted = {
        f"blk.{i}.{name}.bias": rng.standard_normal(n).astype("f4")
        for i in range(2)
        for name, n in (
            ("attn_q", 64), ("attn_k", 32), ("attn_v", 32), ("attn_output", 64),
            ("ffn_gate", 96), ("ffn_up", 96), ("ffn_down", 64),
        )
    }  # fmt: skip
    tensors: dict[str, Any] = {}
    for name, bias in wanted.items():
        if "attn_q" in name or "attn_k" in name:
            bias = bias.reshape(-1, 2, 16).swapaxes(1, 2).reshape(-1)
        tensors[name] = float_tensor(bias)
    tensors["rope_freqs.weight"] = float_tensor(LLAMA3_FACTORS)
    path = tmp_path / "m.gguf"
    path.write_bytes(llama_with(metadata={"llama.rope.freq_base": 5e5}, tensors=tensors))
    config = convert(path, tmp_path / "out", 32, 32)
    assert config["attention_bias"] is config["mlp_bias"] is True
    assert config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    values = load(tmp_path / "out")[2]
    assert np.array_equal(
        values["model.layers.1.self_attn.q_proj.bias"], wanted["blk.1.attn_q.bias"]
    )
    assert np.array_equal(
        values["model.layers.0.self_attn.k_proj.bias"], wanted["blk.0.attn_k.bias"]
    )
    assert np.array_equal(values["model.layers.1.mlp.up_proj.bias"], wanted["blk.1.ffn_up.bias"])


# The plain inverse frequencies over those of transformers' llama3, for base 5e5, width 32, factor 32, context 8192.
LLAMA3_FACTORS = np.array(
    [1, 1, 1, 1, 1, 1, 1, 1, 3.29226280, 32, 32, 32, 32, 32, 32, 32], np.float32
)


@pytest.mark.parametrize(
    ("metadata", "tensors", "words"),
    [
        ({"llama.expert_count": 8}, {}, r"llama\.expert_count is set"),
        ({"llama.rope.dimension_count": 16}, {}, "rotates a part of each head"),
        ({}, {"rope_freqs.weight": float_tensor(LLAMA3_FACTORS * 1.01)}, "rope_freqs.weight"),
        ({}, {"blk.0.attn_q.bias": float_tensor(np.zeros(64, "f4"))}, r"k_proj\.bias is missing"),
    ],
)
def test_llama_variants_are_refused(
    tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, Any], words: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(llama_with(metadata=metadata, tensors=tensors))
    with pytest.raises(ModelError, match=words):
        convert(path, tmp_path / "out", 32, 32)


def test_the_embedding_may_keep_more_bits(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(model("llama"))
    config = convert(tmp_path / "m.gguf", tmp_path / "out", 4, 32, embedding_bits=8)
    assert config["quantization"] == {
        "group_size": 32, "bits": 4, "mode": "affine", "model.embed_tokens": {"group_size": 32, "bits": 8},
    }  # fmt: skip
    convert(tmp_path / "m.gguf", tmp_path / "exact", 32, 32)
    name = "model.embed_tokens.weight"
    assert np.array_equal(load(tmp_path / "out")[2][name], load(tmp_path / "exact")[2][name])
    with pytest.raises(InputError, match="--embedding-bits 8 with --bits 16"):
        convert(tmp_path / "m.gguf", tmp_path / "out", 16, 32, embedding_bits=8)


def test_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(model("qwen3"))
    with pytest.raises(InputError, match="--bits 7: choose"):
        convert(path, tmp_path / "out", 7, 64)
    with pytest.raises(InputError, match="--group-size 48: choose"):
        convert(path, tmp_path / "out", 4, 48)
    with pytest.raises(InputError, match="cannot be read"):
        convert(tmp_path / "none.gguf", tmp_path / "out")
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(FormatError, match="empty"):
        convert(tmp_path / "empty.gguf", tmp_path / "out")
    path.write_bytes(model("qwen3").replace(b"general.architecture", b"general.architecturE"))
    with pytest.raises(
        ModelError, match=r"architecture None .*supported: cohere2, ernie4_5, .*llama, "
    ):
        convert(path, tmp_path / "out")
    path.write_bytes(model("qwen3").replace(b"blk.1.attn_q.weight", b"blk.9.attn_q.weight"))
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.q_proj\.weight is missing"):
        convert(path, tmp_path / "out")
    path.write_bytes(model("qwen3").replace(b"blk.1.attn_q.weight", b"blk.1.attn_z.weight"))
    with pytest.raises(ModelError, match=r"attn_z\.weight' has no place"):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_nan_leaves_no_model_behind(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    body = bytearray(model("qwen3"))
    convert_to = tmp_path / "out"
    path.write_bytes(body)
    convert(path, convert_to, 4, 32)
    start = 4 * (len(body) // 8)  # inside a matrix
    body[start : start + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(body)
    with pytest.raises(FormatError, match="NaN"):
        convert(path, convert_to, 4, 32)
    assert not (convert_to / "config.json").exists()  # the old model's config no longer fits
    assert not list(convert_to.glob("*.partial"))


def test_fuzz(tmp_path: Path) -> None:
    """A damaged file is either converted, or refused with an EngineError."""
    rng = np.random.default_rng(2)
    good = model("qwen3", layers=1)
    path = tmp_path / "m.gguf"
    header = min(t.start for t in parse_gguf(good, "f").tensors.values())
    refused = 0
    for _ in range(40):
        body = bytearray(good)
        for _ in range(3):
            body[int(rng.integers(header))] = int(rng.integers(256))
        path.write_bytes(body)
        try:
            convert(path, tmp_path / "out", 4, 32)
        except EngineError:
            refused += 1
    assert refused > 10
