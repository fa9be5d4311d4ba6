"""GGUF files: parsing, block types against the format's own arithmetic, hostile files, tokenizers."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from py_engine.convert.gguf import TYPES as READ_TYPES
from py_engine.convert.gguf import GgufTensor, parse_gguf
from py_engine.convert.gguf_blocks import dequantise
from py_engine.convert.gguf_splits import SPLITS
from py_engine.convert.gguf_tokenizer import MARK, build_tokenizer
from py_engine.errors import EngineError, FormatError, ModelError
from py_engine.inputs.tokenizer_checks import check_head
from tests.gguf_writer import TYPES, byte_level_metadata, float_tensor, text, value, write_gguf

REAL = Path(__file__).parent.parent / ".models" / "gguf"

METADATA: dict[str, Any] = {
    "general.architecture": "qwen2",
    "a.int": 7,
    "a.float": 0.5,
    "a.bool": True,
    "a.strings": ["x", "é漢", ""],
    "a.ints": [1, -2, 3],
    "a.empty": [],
}
TENSORS = {
    "x": float_tensor(np.arange(15.0).reshape(3, 5)),
    "y": ("Q8_0", (2, 32), bytes(range(68))),
    "z": float_tensor(np.ones(3)),
}


@pytest.mark.parametrize("version", [2, 3])
def test_parse(version: int) -> None:
    body = write_gguf(METADATA, TENSORS, version)
    made = parse_gguf(body, "f")
    assert dict(made.metadata) == METADATA
    assert list(made.tensors) == ["x", "y", "z"]
    assert made.tensors["x"].shape == (3, 5) and made.tensors["y"].shape == (2, 32)
    assert dequantise(made.tensors["x"], body).tolist() == np.arange(15.0).reshape(3, 5).tolist()
    assert dequantise(made.tensors["x"], body, 1, 2).tolist() == [[5, 6, 7, 8, 9]]
    assert dequantise(made.tensors["z"], body).reshape(-1).tolist() == [1, 1, 1]
    # The beginning is enough, with the size of the whole file.
    assert parse_gguf(body[: made.tensors["x"].start], "f", len(body)) == made


def test_alignment() -> None:
    body = write_gguf({"general.alignment": 128}, TENSORS, alignment=128)
    made = parse_gguf(body, "f")
    assert all(t.start % 128 == 0 for t in made.tensors.values())
    assert dequantise(made.tensors["z"], body).reshape(-1).tolist() == [1, 1, 1]


def reference(kind: str, block: bytes) -> list[float]:
    """One block's values, element by element, as the table in ggml-common.h describes them (float64)."""

    def half(at: int) -> float:
        return float(np.frombuffer(block[at : at + 2], "<f2")[0])

    def nibble(data: bytes, i: int) -> int:
        n = len(data)
        return data[i] & 15 if i < n else data[i - n] >> 4

    if kind == "Q8_0":
        return [half(0) * q for q in struct.unpack("<32b", block[2:])]
    if kind in ("Q4_0", "Q4_1"):
        base = 2 if kind == "Q4_0" else 4
        q = [nibble(block[base:], i) for i in range(32)]
        return [half(0) * (v - 8) if base == 2 else half(0) * v + half(2) for v in q]
    if kind in ("Q5_0", "Q5_1"):
        base = 2 if kind == "Q5_0" else 4
        high = int.from_bytes(block[base : base + 4], "little")
        q = [nibble(block[base + 4 :], i) | (high >> i & 1) << 4 for i in range(32)]
        return [half(0) * (v - 16) if base == 2 else half(0) * v + half(2) for v in q]
    if kind in ("Q4_K", "Q5_K"):
        s, out = block[4:16], []
        qs = block[16:] if kind == "Q4_K" else block[48:]
        for j in range(8):
            if j < 4:
                scale, least = s[j] & 63, s[j + 4] & 63
            else:
                scale = s[j + 4] & 15 | s[j - 4] >> 6 << 4
                least = s[j + 4] >> 4 | s[j] >> 6 << 4
            for e in range(32):
                byte = qs[j // 2 * 32 + e]
                v = byte >> 4 if j % 2 else byte & 15
                if kind == "Q5_K":
                    v += (block[16 + e] >> j & 1) * 16
                out.append(half(0) * scale * v - half(2) * least)
        return out
    ql, qh, sc = block[:128], block[128:192], struct.unpack("<16b", block[192:208])
    out = []
    for e in range(256):
        part, k, i = e // 128, e % 128 // 32, e % 32
        low = ql[part * 64 + (k % 2) * 32 + i]
        v = (low & 15 if k < 2 else low >> 4) | (qh[part * 32 + i] >> 2 * k & 3) << 4
        out.append(half(208) * sc[e // 16] * (v - 32))
    return out


@pytest.mark.parametrize("kind", [k for k in TYPES if TYPES[k][1] > 1])
def test_block_types(kind: str) -> None:
    number, elements, nbytes = TYPES[kind]
    assert READ_TYPES[number].name == kind
    rng = np.random.default_rng(number)
    raw = rng.integers(0, 256, (5, nbytes), dtype=np.uint8)
    for at in {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q6_K": (208,)}.get(
        kind, (0,)
    ):
        raw[:, at : at + 2] = rng.uniform(-2, 2, 5).astype("<f2").view(np.uint8).reshape(5, 2)
    body = raw.tobytes()
    got = dequantise(GgufTensor("x", READ_TYPES[number], (5, elements), 0), body)
    want = np.array([reference(kind, row.tobytes()) for row in raw])
    assert got.dtype == np.float32 and got.shape == want.shape
    # Two float32 roundings and a subtraction: 1e-6 of the largest value.
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


def test_bf16_and_f16() -> None:
    values = np.array([[1.5, -2.0, 0.0, 3.140625]], np.float32)
    bf16 = (values.view("<u4") >> 16).astype("<u2").tobytes()
    for number, raw in ((30, bf16), (1, values.astype("<f2").tobytes())):
        got = dequantise(GgufTensor("x", READ_TYPES[number], (1, 4), 0), raw)
        assert got.tolist() == values.tolist()


def entry(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    packed = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return text(name) + packed


def raw_file(
    tensors: int, entries: int, rest: bytes, data: bytes = bytes(64), version: int = 3
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + rest
    return head + bytes(-len(head) % 32) + data


BAD = {
    "empty": (b"", FormatError, "not a GGUF"),
    "other": (b"\x08\0\0\0\0\0\0\0{}      ", FormatError, "not a GGUF"),
    "magic only": (b"GGUF", FormatError, "cut short"),
    "version": (raw_file(0, 0, b"", version=1), ModelError, "version 1"),
    "big-endian": (b"GGUF\0\0\0\3" + bytes(40), ModelError, "big-endian"),
    "many tensors": (raw_file(1 << 60, 0, b""), FormatError, "more than fit"),
    "many entries": (raw_file(0, 1 << 60, b""), FormatError, "more than fit"),
    "long key": (raw_file(0, 1, struct.pack("<Q", 1 << 50) + bytes(99)), FormatError, "more than"),
    "long string": (raw_file(0, 1, text("k") + struct.pack("<IQ", 8, 1 << 50)), FormatError, "cut short"),
    "long array": (raw_file(0, 1, text("k") + struct.pack("<IIQ", 9, 4, 1 << 62)), FormatError, "announces"),
    "strings cut": (raw_file(0, 1, text("k") + struct.pack("<IIQQ", 9, 8, 3, 1 << 40)), FormatError, "entry 0"),
    "deep array": (raw_file(0, 1, text("k") + struct.pack("<IIQIQ", 9, 9, 1, 9, 1) * 9), FormatError, "unknown type"),
    "value type": (raw_file(0, 1, text("k") + struct.pack("<I", 77)), FormatError, "unknown type 77"),
    "twice": (raw_file(0, 2, (text("k") + value(1)) * 2), FormatError, "appears twice"),
    "key bytes": (raw_file(0, 1, text(b"\xff\xfe") + value(1)), FormatError, "UTF-8"),
    "alignment": (raw_file(0, 1, text("general.alignment") + value(48)), FormatError, "power of two"),
    "alignment 0": (raw_file(0, 1, text("general.alignment") + value(0)), FormatError, "power of two"),
    "rank": (raw_file(1, 0, entry("x", [1] * 5, 0, 0)), FormatError, "5 dimensions"),
    "no rank": (raw_file(1, 0, entry("x", [], 0, 0)), FormatError, "0 dimensions"),
    "dimension": (raw_file(1, 0, entry("x", [1 << 62, 4], 0, 0)), FormatError, "absurd"),
    "zero": (raw_file(1, 0, entry("x", [0], 0, 0)), FormatError, "absurd"),
    "product": (raw_file(1, 0, entry("x", [1 << 40, 1 << 40], 0, 0)), FormatError, "cut short"),
    "type": (raw_file(1, 0, entry("x", [4], 99, 0)), FormatError, "unknown type 99"),
    "other type": (raw_file(1, 0, entry("x", [256], 10, 0)), ModelError, "Q2_K; supported: F32"),
    "block": (raw_file(1, 0, entry("x", [33], 8, 0)), FormatError, "multiple of Q8_0's 32"),
    "offset": (raw_file(1, 0, entry("x", [4], 0, 4)), FormatError, "alignment"),
    "far offset": (raw_file(1, 0, entry("x", [4], 0, 1 << 40)), FormatError, "cut short"),
    "overlap": (raw_file(2, 0, entry("x", [9], 0, 0) + entry("y", [4], 0, 32)), FormatError, "overlaps"),
    "same name": (raw_file(2, 0, entry("x", [4], 0, 0) + entry("x", [4], 0, 32)), FormatError, "appears twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str) -> None:
    body, kind, words = BAD[case]
    with pytest.raises(kind, match=words) as caught:
        parse_gguf(body, "some.gguf")
    assert "some.gguf" in str(caught.value) and len(str(caught.value)) < 500


def test_fuzz() -> None:
    """Cut files and flipped bytes give a good parse or an EngineError, nothing else."""
    metadata = METADATA | sentencepiece_metadata()
    good = write_gguf(metadata, TENSORS)
    header = parse_gguf(good, "f").tensors["x"].start
    rng = random.Random(9)
    outcomes = {"good": 0, "refused": 0}
    for _ in range(2000):
        body = bytearray(good)
        if rng.random() < 0.3:
            del body[rng.randrange(len(body)) :]
        for _ in range(rng.randrange(1, 5)):
            if body:
                body[rng.randrange(min(len(body), header))] = rng.randrange(256)
        try:
            made = parse_gguf(bytes(body), "fuzz")
            for tensor in made.tensors.values():
                dequantise(tensor, body)
            build_tokenizer(made.metadata, "fuzz")
            outcomes["good"] += 1
        except EngineError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 500 and outcomes["good"] > 20


def sentencepiece_metadata() -> dict[str, Any]:
    """A small Gemma-like vocabulary: controls, user-defined runs of spaces, bytes, pieces with scores."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "  ", "   "]
    types = [3, 3, 3, 2, 3, 3, 4, 4]
    scores = [-1000.0] * 8
    tokens += [f"<0x{b:02X}>" for b in range(256)]
    types += [6] * 256
    scores += [-1000.0] * 256
    merged = ["ab", f"{MARK}a", "abc", "bc", f"{MARK}abc", "aa", "aaa", "aaaa", "é"]
    pieces = merged + [*"abcdef", MARK]
    tokens += pieces
    types += [1] * len(pieces)
    scores += [-float(i) for i in range(len(pieces))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": "{{ messages }}",
    }


def merge_by_score(metadata: dict[str, Any], string: str) -> list[int]:
    """SentencePiece's BPE by its definition: cut out the longest user-defined pieces, then join the best pair,
    leftmost first, until no pair is a piece. Text that is not in the vocabulary becomes bytes."""
    tokens = [
        t.replace(" ", MARK) if k == 4 else t
        for t, k in zip(
            metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True
        )
    ]
    types, scores = metadata["tokenizer.ggml.token_type"], metadata["tokenizer.ggml.scores"]
    normal = {t: i for i, t in enumerate(tokens) if types[i] == 1}
    frozen = sorted((t for i, t in enumerate(tokens) if types[i] == 4), key=len, reverse=True)
    string, at = string.replace(" ", MARK), 0
    symbols: list[tuple[str, bool]] = []
    while at < len(string):
        piece = next((f for f in frozen if string.startswith(f, at)), None)
        symbols.append((piece or string[at], piece is not None))
        at += len(symbols[-1][0])
    while True:
        best = None
        for i in range(len(symbols) - 1):
            (left, f1), (right, f2) = symbols[i : i + 2]
            if not f1 and not f2 and left + right in normal:
                score = scores[normal[left + right]]
                if best is None or score > best[0]:
                    best = (score, i)
        if best is None:
            break
        i = best[1]
        symbols[i : i + 2] = [(symbols[i][0] + symbols[i + 1][0], False)]
    ids: list[int] = []
    for symbol, cut in symbols:
        if cut:
            ids.append(tokens.index(symbol))
        elif symbol in normal:
            ids.append(normal[symbol])
        else:
            ids += [tokens.index(f"<0x{b:02X}>") for b in symbol.encode()]
    return ids


def test_sentencepiece_ids() -> None:
    metadata = sentencepiece_metadata()
    made = build_tokenizer(metadata, "f")
    tokenizer = Tokenizer.from_str(json.dumps(made.tokenizer))
    rng = random.Random(3)
    for _ in range(1500):
        string = "".join(rng.choice("aaabbc  éx漢") for _ in range(rng.randrange(1, 24)))
        ids = tokenizer.encode(string, add_special_tokens=False).ids
        assert ids == merge_by_score(metadata, string), string
        assert tokenizer.decode(ids) == string
    encoded = tokenizer.encode("<start_of_turn>a b").ids
    assert encoded[:2] == [2, 4]  # the tokenizer adds the first <bos>, then comes the control token
    assert made.eos_ids == [1, 5] and made.bos_id == 2 and made.pad_id == 0
    assert made.config["chat_template"] == "{{ messages }}"
    assert made.config["bos_token"] == "<bos>" and made.config["add_bos_token"] is True


def test_byte_level_ids() -> None:
    metadata = byte_level_metadata()
    made = build_tokenizer(metadata, "f")
    tokenizer = Tokenizer.from_str(json.dumps(made.tokenizer))
    tokens = metadata["tokenizer.ggml.tokens"]

    def pieces(string: str) -> list[str]:
        return [tokens[i] for i in tokenizer.encode(string).ids]

    assert pieces("hello hello") == ["hello", "\u0120hello"]
    assert pieces("12") == ["1", "2"]  # digits stay separate, though there is a merge
    assert pieces("<|im_start|>he<tool_call>") == ["<|im_start|>", "he", "<tool_call>"]
    assert pieces("[PAD0]")[0] == "["  # padding tokens of the embedding have no text
    assert pieces("e\u0301") == pieces("\u00e9")  # NFC
    for string in ("été 漢字 😀\n\n\tx", "\0\x7f", " hello  "):
        assert tokenizer.decode(tokenizer.encode(string).ids) == string
    assert made.eos_ids == [tokens.index("<|im_end|>"), tokens.index("<|endoftext|>")]
    assert "bos_token" not in made.config  # the tokenizer never adds it


@pytest.mark.parametrize("name", ["deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"])
def test_other_names_of_a_split_rule(name: str) -> None:
    metadata = byte_level_metadata()
    other = build_tokenizer(metadata | {"tokenizer.ggml.pre": name}, "f")
    assert other.tokenizer == build_tokenizer(metadata, "f").tokenizer


# What a published tokenizer of this kind (Digits, then ByteLevel, no normaliser) gives for these texts, with `tokens`
# alone.
SMOLLM = {
    "hello hello": ["hello", "\u0120hello"],
    "12": ["1", "2"],
    "a 12b": ["a", "\u0120", "1", "2", "b"],
    "I'll": ["I", "'", "ll"],
    "e\u0301": ["e", "\u00cc", "\u0123"],  # these stay two characters
    "<|im_start|>he": ["<|im_start|>", "he"],
}


@pytest.mark.parametrize("name", ["smollm", "starcoder"])
def test_smollm_ids(name: str) -> None:
    metadata = byte_level_metadata() | {"tokenizer.ggml.pre": name}
    tokenizer = Tokenizer.from_str(json.dumps(build_tokenizer(metadata, "f").tokenizer))
    tokens = metadata["tokenizer.ggml.tokens"]
    for string, pieces in SMOLLM.items():
        ids = tokenizer.encode(string).ids
        assert [tokens[i] for i in ids] == pieces
        assert tokenizer.decode(ids, skip_special_tokens=False) == string


SPLIT: dict[str, Any] = json.loads(
    (Path(__file__).parent / "goldens" / "gguf_splits.json").read_text()
)


@pytest.mark.parametrize("name", [name for name in SPLIT if name != "texts"])
def test_split_rules(name: str) -> None:
    """Texts of many scripts are split as another regex engine splits them (goldens/make_gguf_splits.py)."""
    made = build_tokenizer(byte_level_metadata() | {"tokenizer.ggml.pre": name}, "f").tokenizer
    tokenizer = Tokenizer.from_str(json.dumps(made))
    for string, pieces in zip(SPLIT["texts"], SPLIT[name], strict=True):
        found = tokenizer.pre_tokenizer.pre_tokenize_str(string)
        assert [string[first:last] for _, (first, last) in found] == pieces
        assert tokenizer.decode(tokenizer.encode(string, add_special_tokens=False).ids) == string


@pytest.mark.parametrize("name", SPLITS)
def test_split_rules_pass_the_engine_s_checks(name: str) -> None:
    """The engine refuses expressions that may take exponential time, and accepts all of these."""
    made = build_tokenizer(byte_level_metadata() | {"tokenizer.ggml.pre": name}, "f").tokenizer
    check_head(made, made["model"])


def test_llama3_takes_whole_words_and_begins_with_bos() -> None:
    """As in Llama 3's own tokenizer.json: a word that is a token stays whole, even if no merges build it."""
    metadata = byte_level_metadata() | {"tokenizer.ggml.pre": "llama-bpe"}
    tokens = metadata["tokenizer.ggml.tokens"]
    tokens[tokens.index("12")] = "xyz"
    del metadata["tokenizer.ggml.add_bos_token"]
    metadata["tokenizer.ggml.merges"].remove("1 2")
    tokenizer = Tokenizer.from_str(json.dumps(build_tokenizer(metadata, "f").tokenizer))
    ids = tokenizer.encode("xyz").ids
    assert [tokens[i] for i in ids] == ["<|endoftext|>", "xyz"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer.ggml.model": "bert"}, "'bert' is not supported"),
        ({"tokenizer.ggml.model": ["x"]}, "not supported"),
        ({"tokenizer.ggml.pre": "kimi-k2"}, "split rule 'kimi-k2'"),
        ({"tokenizer.ggml.pre": ["x"]}, "split rule"),
        ({"tokenizer.ggml.merges": ["abc"]}, "two parts"),
        ({"tokenizer.ggml.merges": "x"}, "merges"),
        ({"tokenizer.ggml.tokens": []}, "tokens"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokens"),
        ({"tokenizer.ggml.token_type": [1]}, "1 token types"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, "eos_token_id"),
        ({"tokenizer.ggml.eos_token_id": "x"}, "eos_token_id"),
    ],
)
def test_bad_tokenizers(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build_tokenizer(byte_level_metadata() | change, "f")


@pytest.mark.real_model
@pytest.mark.parametrize("name", ["gemma-3-270m", "Qwen2.5-Coder-0.5B-Instruct"])
def test_real_files(name: str) -> None:
    path = REAL / f"{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    data = np.memmap(path, np.uint8, "r")
    made = parse_gguf(data, path.name)
    tensor = made.tensors["blk.0.attn_q.weight"]
    values = dequantise(tensor, data)
    assert values.shape == tensor.shape and 0.005 < float(values.std()) < 0.5
