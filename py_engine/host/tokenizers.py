"""The `tokenizers` library (Rust) behind one interface: its wheel in CPython, its wasm build in the browser.

Each is loaded from the bytes of a tokenizer.json. Only what the wasm build can do is used: encode without special
tokens, and name an id. All the rest (control tokens, special tokens, decoding) is Python, in inputs/tokenizer.py, so
both hosts do the same.
"""

from __future__ import annotations

import abc


class TokenizerLibrary(abc.ABC):
    """One loaded tokenizer.json."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, which must not hold lone surrogates. The file's added tokens are recognised; no special tokens
        are put around the text. Raises FormatError when the library fails or panics."""

    @abc.abstractmethod
    def id_to_token(self, token_id: int) -> str | None:
        """The entry of the vocabulary; None for an unknown id."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free the library's memory."""
