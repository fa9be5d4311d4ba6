"""The `tokenizers` library (Rust) behind one interface: its wheel in CPython, its wasm build in the
browser.

Both hold one vocabulary, made from the bytes of a tokenizer.json, and do no more than the wasm
build can: encode without special tokens, and name an id. Everything else (control tokens, special
tokens, decoding) is Python's, in inputs/tokenizer.py, and so equal in both hosts by construction.
"""

from __future__ import annotations

import abc


class TokenizerLibrary(abc.ABC):
    """One loaded tokenizer.json."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text without lone surrogates; added tokens of the file are recognised, special
        tokens not added. Raises FormatError where the library fails, whose own panics are among that."""

    @abc.abstractmethod
    def id_to_token(self, token_id: int) -> str | None:
        """The piece as it stands in the vocabulary, None for an id that it does not have."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free what the library holds."""
