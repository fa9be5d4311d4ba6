"""The `tokenizers` wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import FormatError
from .tokenizers import TokenizerLibrary

if TYPE_CHECKING:
    import tokenizers


class NativeTokenizer(TokenizerLibrary):
    """A `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer: tokenizers.Tokenizer | None = tokenizer

    def encode(self, text: str) -> list[int]:
        """See TokenizerLibrary."""
        return list(self._live().encode(text, add_special_tokens=False).ids)

    def id_to_token(self, token_id: int) -> str | None:
        """See TokenizerLibrary."""
        # the wheel takes 32-bit ids and raises OverflowError beyond
        if not 0 <= token_id < 2**32:
            return None
        token: str | None = self._live().id_to_token(token_id)
        return token

    def close(self) -> None:
        """See TokenizerLibrary."""
        self._tokenizer = None

    def _live(self) -> tokenizers.Tokenizer:
        if self._tokenizer is None:
            raise RuntimeError("this tokenizer was closed when its model was unloaded")
        return self._tokenizer


def load_native(data: bytes) -> NativeTokenizer:
    """Load a tokenizer.json. Raises FormatError when the library refuses it."""
    from tokenizers import Tokenizer  # here: most of the engine runs without it

    try:
        return NativeTokenizer(Tokenizer.from_buffer(data))
    except BaseException as error:
        # The wheel raises bare Exception, and a panic in its Rust code comes as a BaseException.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FormatError(
            f"tokenizer.json was refused by the tokenizers library: {error}. "
            "The file is damaged or of an unsupported kind: fetch it again, or use another "
            "revision."
        ) from error
