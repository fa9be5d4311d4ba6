"""The `tokenizers` library in CPython: its wheel."""

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
        tokenizer = self._live()
        try:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)
        except BaseException as error:
            raise _refusal(error, "this model's tokenizer cannot encode the text") from error

    def id_to_token(self, token_id: int) -> str | None:
        """See TokenizerLibrary."""
        # the wheel takes 32-bit ids and raises OverflowError for larger ones
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
        raise _refusal(error, "tokenizer.json was refused by the tokenizers library") from error


def _refusal(error: BaseException, what: str) -> FormatError:
    """The FormatError for an exception of the library. Other exceptions, such as KeyboardInterrupt, are raised
    again."""
    # The wheel raises bare Exception, and a panic in its Rust code comes as a BaseException.
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return FormatError(
        f"{what}: {error!s:.300}. The file is damaged or of an unsupported kind: fetch it again, or use another "
        "revision."
    )
