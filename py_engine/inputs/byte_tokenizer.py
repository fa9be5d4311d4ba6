"""A tokenizer without files, for `random:` models: token id = UTF-8 byte."""

from __future__ import annotations

import json
from typing import Any

from .detokenizer import byte_alphabet
from .tokenizer import Tokenizer


async def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose token ids are UTF-8 bytes."""
    return await Tokenizer.load(json.dumps(byte_tokenizer_json()).encode())


def byte_tokenizer_json() -> dict[str, Any]:
    """The tokenizer.json for it: a byte-level BPE vocabulary of 256 entries, without merges."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {"type": "BPE", "vocab": dict(byte_alphabet()), "merges": []},
    }
