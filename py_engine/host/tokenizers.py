"""The `tokenizers` library (Rust) behind one interface: its wheel in CPython, its wasm build in the
browser.

Both hold one vocabulary, made from the bytes of a tokenizer.json, and do no more than the wasm
build can: encode without special tokens, and name an id. Everything else (control tokens, special
tokens, decoding) is Python's, in inputs/tokenizer.py, and so equal in both hosts by construction.
"""

from __future__ import annotations

import abc
import sys


class TokenizerLibrary(abc.ABC):
    """One loaded tokenizer.json."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text without lone surrogates; added tokens of the file are recognised, special
        tokens not added."""

    @abc.abstractmethod
    def id_to_token(self, token_id: int) -> str | None:
        """The piece as it stands in the vocabulary, None for an id that it does not have."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what the library holds."""


async def load_tokenizer_library(data: bytes) -> TokenizerLibrary:
    """The library of this host over a tokenizer.json. Raises FormatError when the library refuses
    the file."""
    if sys.platform == "emscripten":
        from .tokenizers_browser import load_browser

        return await load_browser(data)
    from .tokenizers_native import load_native

    return load_native(data)
