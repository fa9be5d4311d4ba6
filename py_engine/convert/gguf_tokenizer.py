"""Makes tokenizer.json, tokenizer_config.json and end tokens from the vocabulary in a GGUF file.

Two kinds: byte-level BPE with its merges (`gpt2`: Qwen), and a SentencePiece vocabulary with scores (`llama`: Gemma),
whose merges are derived so that the `tokenizers` library gives the ids that SentencePiece gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from py_engine.convert.gguf_splits import ALIASES, SPLITS, Split
from py_engine.errors import FormatError, ModelError

# llama.h: enum llama_token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

MARK = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's sign for a space


# Tokens that end a turn. GGUF has only one eos id, which may be another token.
TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<end_of_turn>")


@dataclass(frozen=True)
class GgufTokenizer:
    """The files' contents, as JSON objects."""

    tokenizer: dict[str, Any]
    config: dict[str, Any]
    eos_ids: list[int]
    bos_id: int | None
    pad_id: int | None


def build_tokenizer(metadata: Mapping[str, Any], where: str) -> GgufTokenizer:
    """The tokenizer of a GGUF file. Raises FormatError when its lists do not fit together, ModelError for a kind that
    is not supported."""
    tokens = _list(metadata, "tokens", str, where)
    types = _list(metadata, "token_type", int, where)
    if len(types) != len(tokens) or not tokens:
        raise FormatError(
            f"{where}: {len(types)} token types for {len(tokens)} tokens. The file is damaged."
        )
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        tokenizer = _byte_level(metadata, tokens, types, where)
    elif model == "llama":
        tokens = [
            t.replace(" ", MARK) if kind == USER_DEFINED else t
            for t, kind in zip(tokens, types, strict=True)
        ]
        tokenizer = _sentencepiece(metadata, tokens, types, where)
    else:
        raise ModelError(
            f"{where}: tokenizer model {model!r} is not supported; supported: gpt2, llama."
        )
    bos = _id(metadata, "bos_token_id", tokens, where)
    eos = _id(metadata, "eos_token_id", tokens, where)
    pad = _id(metadata, "padding_token_id", tokens, where)
    split = _split(metadata) if model == "gpt2" else None
    unsaid = split is not None and split.bos  # files that are older than the setting do not have it
    add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", unsaid)) and bos is not None
    add_eos = bool(metadata.get("tokenizer.ggml.add_eos_token", False)) and eos is not None
    if add_bos or add_eos:
        before = [tokens[bos]] if add_bos and bos is not None else []
        after = [tokens[eos]] if add_eos and eos is not None else []
        tokenizer["post_processor"] = _template(before, after, tokens)
    eos_ids = [eos] if eos is not None else []
    eot = _id(metadata, "eot_token_id", tokens, where)
    kinds = {t: i for i, t in enumerate(tokens) if types[i] == CONTROL}
    for extra in (eot, *(kinds.get(name) for name in TURN_ENDS)):
        if extra is not None and extra not in eos_ids:
            eos_ids.append(extra)
    config: dict[str, Any] = {
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 10**30,
    }
    unknown = _id(metadata, "unknown_token_id", tokens, where)
    for name, token in (("bos", bos), ("eos", eos), ("pad", pad), ("unk", unknown)):
        if token is not None and (name != "bos" or add_bos or model == "llama"):
            config[f"{name}_token"] = tokens[token]
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    return GgufTokenizer(tokenizer, config, eos_ids, bos, pad)


def _split(metadata: Mapping[str, Any]) -> Split | None:
    """The rule that the file names; None when it is not supported."""
    pre = metadata.get("tokenizer.ggml.pre")
    return SPLITS.get(ALIASES.get(pre, pre)) if isinstance(pre, str) else None


def _byte_level(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int], where: str
) -> dict[str, Any]:
    split = _split(metadata)
    if split is None:
        rule = metadata.get("tokenizer.ggml.pre")
        raise ModelError(
            f"{where}: the split rule {rule!r} is not supported; supported:"
            f" {', '.join((*SPLITS, *ALIASES))}. Take the model's safetensors."
        )
    merges = _list(metadata, "merges", str, where)
    pairs = [merge.split(" ") for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise FormatError(f"{where}: a merge does not have two parts. The file is damaged.")
    # Unused ids are padding of the embedding and have no text.
    vocab = {
        t: i for i, (t, k) in enumerate(zip(tokens, types, strict=True)) if k in (NORMAL, BYTE)
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    steps: list[dict[str, Any]] = []
    if split.digits:
        steps.append({"type": "Digits", "individual_digits": True})
    for expression in split.patterns:
        pattern = {"Regex": expression}
        steps.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    steps.append(byte_level | {"use_regex": not split.patterns})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(tokens, types, normalized=False),
        "normalizer": {"type": "NFC"} if split.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": byte_level | {"use_regex": False},
        "decoder": byte_level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split.whole_words,
            "vocab": vocab,
            "merges": pairs,
        },
    }


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int], where: str
) -> dict[str, Any]:
    scores = _list(metadata, "scores", float, where)
    if len(scores) != len(tokens):
        raise FormatError(f"{where}: {len(scores)} scores for {len(tokens)} tokens.")
    unknown = _id(metadata, "unknown_token_id", tokens, where)
    # A run of spaces is one user-defined piece; matching after normalisation, as SentencePiece does.
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    normalizer: dict[str, Any] = replace
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        normalizer = {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": MARK}, replace],
        }
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(tokens, types, normalized=True),
        "normalizer": normalizer,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[unknown] if unknown is not None else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": BYTE in types,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": derive_merges(tokens, types, scores),
        },
    }


def derive_merges(tokens: list[str], types: list[int], scores: list[float]) -> list[list[str]]:
    """Merges that do what SentencePiece's BPE does with scores (Kudo and Richardson 2018, arXiv:1808.06226).

    SentencePiece joins the neighbours whose union has the best score; so every way to cut a piece into two pieces is a
    merge, and its rank is the union's score. Ways of one union stand together; their order does not matter except in
    runs where they overlap. User-defined pieces are cut out beforehand and take part in no merge.
    """
    usable = {t: i for i, t in enumerate(tokens) if types[i] == NORMAL}
    ranked: list[tuple[float, int, int, str, str]] = []
    for token, index in usable.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in usable and right in usable:
                ranked.append((-scores[index], index, cut, left, right))
    ranked.sort()
    return [[left, right] for *_, left, right in ranked]


def _added(tokens: list[str], types: list[int], *, normalized: bool) -> list[dict[str, Any]]:
    """Control tokens are special; user-defined ones are text that is always one token."""
    return [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": normalized and kind == USER_DEFINED,
            "special": kind != USER_DEFINED,
        }
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def _template(before: list[str], after: list[str], tokens: list[str]) -> dict[str, Any]:
    def special(names: list[str]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": name, "type_id": 0}} for name in names]

    def sequence(which: str) -> dict[str, Any]:
        return {"Sequence": {"id": which, "type_id": 0}}

    single = [*special(before), sequence("A"), *special(after)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *special(before), sequence("B"), *special(after)],
        "special_tokens": {
            name: {"id": name, "ids": [tokens.index(name)], "tokens": [name]}
            for name in before + after
        },
    }


def _list(metadata: Mapping[str, Any], key: str, kind: type, where: str) -> list[Any]:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(value, list) or not all(type(entry) is kind for entry in value):
        raise FormatError(
            f"{where}: tokenizer.ggml.{key} is missing or of the wrong kind. Take another GGUF of the model."
        )
    return value


def _id(metadata: Mapping[str, Any], key: str, tokens: list[str], where: str) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < len(tokens):
        raise FormatError(f"{where}: tokenizer.ggml.{key} is {value!r}, not one of its tokens.")
    return value
