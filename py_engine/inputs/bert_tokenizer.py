"""BERT's tokenizer as transformers makes it: tokenizer_config.json says how texts are normalised, whatever
tokenizer.json says of it, and the vocabulary may be a vocab.txt alone.

Reference: transformers 5, models/bert/tokenization_bert.py (its 4.x corrected tokenizer.json by the same settings).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from py_engine.errors import FormatError

_CLASSES = ("BertTokenizer", "BertTokenizerFast")
_SPECIAL = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def is_bert(config: Mapping[str, Any], model_config: Mapping[str, Any]) -> bool:
    """Whether transformers takes its BertTokenizer: the class that tokenizer_config.json (`config`) names, else that of
    the model."""
    named = config.get("tokenizer_class")
    return named in _CLASSES or (named is None and model_config.get("model_type") == "bert")


def settle_normalizer(
    head: dict[str, Any],
    model: Mapping[str, Any],
    config: Mapping[str, Any],
    model_config: Mapping[str, Any],
) -> None:
    """In the `head` of a tokenizer.json (what stands beside its `model`): how BERT's tokenizer normalises. Other
    tokenizers are left alone. Raises FormatError."""
    if model.get("type") == "WordPiece" and is_bert(config, model_config):
        head["normalizer"] = _normalizer(config)


def _normalizer(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": _switch(config, "tokenize_chinese_chars", True),
        "strip_accents": _switch(config, "strip_accents", None),  # None: as lowercase
        "lowercase": _switch(config, "do_lower_case", True),
    }


def tokenizer_json(
    vocabulary: str, config: Mapping[str, Any], special_tokens_map: Mapping[str, Any]
) -> bytes:
    """A tokenizer.json for the text of a vocab.txt, which has an entry a line, the first one's id 0. The parsed
    tokenizer_config.json and special_tokens_map.json name its special tokens. Raises FormatError."""
    entries = vocabulary.replace("\r\n", "\n").removesuffix("\n").split("\n")
    ids = {entry: i for i, entry in enumerate(entries)}
    special = {name: _text({**special_tokens_map, **config}, name) for name in _SPECIAL}
    for name in ("unk_token", "cls_token", "sep_token"):
        if special[name] not in ids:
            raise FormatError(f"vocab.txt has no {special[name]!r}, which is the {name} of BERT")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": ids[text], "content": text, "special": True, **flags}
        for text in sorted(special.values(), key=lambda text: ids.get(text, -1))
        if text in ids
    ]
    model = {
        "type": "WordPiece",
        "unk_token": special["unk_token"],
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": ids,
    }
    around = {
        end: [special[f"{end}_token"], ids[special[f"{end}_token"]]] for end in ("sep", "cls")
    }
    whole = {
        "added_tokens": added,
        "normalizer": _normalizer(config),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", **around},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": model,
    }
    return json.dumps(whole).encode()


def _text(names: Mapping[str, Any], name: str) -> str:
    """Of a special token: what the files call it, a string or an object, else as BERT does."""
    value = names.get(name)
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) else f"[{name.partition('_')[0].upper()}]"


def _switch(config: Mapping[str, Any], key: str, default: bool | None) -> bool | None:
    value = config.get(key, default)
    if value is not None and not isinstance(value, bool):
        raise FormatError(f"tokenizer_config.json: {key} must be true or false, not {value!r:.80}")
    return default if value is None else value
