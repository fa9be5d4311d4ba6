"""The wasm build of `tokenizers`: @mlc-ai/web-tokenizers.

The worker's own `.mjs` imports the package (a UMD file: after the import its exports are
`globalThis.tokenizers`) and hands its `Tokenizer` class over as `globalThis.jerboa.Tokenizer`;
nothing is evaluated, so `script-src 'self' 'wasm-unsafe-eval'` is enough. Measured with 0.1.6
(tokenizers 0.21.1 inside): for a refused file the call ends in a RuntimeError without a reason (the
reason goes to the console). The module's memory cannot be trusted afterwards, so the next tokenizer
comes from a fresh copy of the module (`globalThis.jerboa.renewTokenizers`).
"""

from __future__ import annotations

from typing import Any

from ..errors import FormatError, HostError, ModelError
from .tokenizers import TokenizerLibrary


class BrowserTokenizer(TokenizerLibrary):
    """A JS `Tokenizer` object."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def encode(self, text: str) -> list[int]:
        """See TokenizerLibrary."""
        from pyodide.ffi import JsException

        try:
            array = self._live().encode(text)
        except JsException as error:
            _distrust()
            self._handle = None  # its memory belongs to the copy of the module that was given up
            raise _refusal(error, "this model's tokenizer cannot encode the text") from error
        # Through the buffer protocol: one copy, and no call to JavaScript for each id.
        ids: list[int] = array.to_memoryview().tolist() if array.length else []
        return ids

    def id_to_token(self, token_id: int) -> str | None:
        """See TokenizerLibrary."""
        if not 0 <= token_id < 2**31:  # the wasm build takes signed 32-bit ids
            return None
        return self._live().idToToken(token_id) or None  # it answers "" for an unknown id

    def close(self) -> None:
        """See TokenizerLibrary."""
        if self._handle is not None:
            self._handle.dispose()
            self._handle = None

    def _live(self) -> Any:
        if self._handle is None:
            raise ModelError(
                "this model's tokenizer is closed, or failed on an earlier text: load it again"
            )
        return self._handle


_distrusted = False  # the module has aborted: the next load takes a fresh copy


def _distrust() -> None:
    global _distrusted
    _distrusted = True


def _refusal(error: Exception, what: str) -> FormatError:
    return FormatError(
        f"{what}: {error!s:.300} (the reason is in the console). The file is damaged or of an unsupported kind: fetch "
        "it again, or use another revision."
    )


async def load_browser(data: bytes) -> BrowserTokenizer:
    """Load a tokenizer.json. Raises FormatError when the library refuses it, HostError when the worker has not handed
    over the library."""
    import js
    from pyodide.ffi import JsException, to_js

    jerboa: Any = getattr(js, "jerboa", None)
    factory = getattr(jerboa, "Tokenizer", None)
    if factory is None:
        raise HostError(
            "the worker did not provide globalThis.jerboa.Tokenizer (from @mlc-ai/web-tokenizers): "
            "worker.mjs must import the vendored file before a model is loaded"
        )
    global _distrusted
    if _distrusted:
        await jerboa.renewTokenizers()
        factory, _distrusted = jerboa.Tokenizer, False
    array = to_js(data)  # a Uint8Array over a fresh ArrayBuffer: one copy, outside Python's heap
    try:
        return BrowserTokenizer(await factory.fromJSON(array.buffer))
    except JsException as error:
        _distrust()
        raise _refusal(error, "tokenizer.json was refused by the tokenizers library") from error
