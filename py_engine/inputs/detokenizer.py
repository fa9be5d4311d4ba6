"""From token ids to text, a token at a time: the `decoder` of a tokenizer.json as a chain of
streaming stages.

For a whole sequence the text equals the `tokenizers` library's own decode. On the way half a character
is never shown: the bytes of an unfinished UTF-8 sequence are held back. ByteFallback turns a whole run of
byte pieces into U+FFFD when one of them is wrong, so such a run is held back until it ends.

Source: the decoders of huggingface/tokenizers 0.23. tests/test_tokenizer.py compares with its decode.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from py_engine.errors import ModelError

from .regex_cost import Regex
from .tokenizer_checks import time_suspects

MAX_REPLACED = 4096  # characters of the longest piece on which a regular expression is run


class _Added(str):
    """An added token's text, which is not in the byte alphabet."""


class _Stage(Protocol):
    def feed(self, piece: str) -> list[str]:
        """The pieces that cannot change any more."""

    def end(self, cut: bool) -> list[str]:
        """What was held back. Afterwards the stage is as new. `cut`: leave out an unfinished character."""


class StreamDecoder:
    """Text of one sequence of ids. Made by `Tokenizer.decoder()`.

    `spec`: the `decoder` object of tokenizer.json (None: pieces are joined by spaces, as in the library).
    `piece_of(id)`: gives (text, is an added token), or None for an unknown id. Unknown ids, and those of
    `skip`, are left out. Raises ModelError for a kind of decoder that is not supported.
    """

    def __init__(
        self,
        spec: Mapping[str, Any] | None,
        piece_of: Callable[[int], tuple[str, bool] | None],
        skip: frozenset[int] = frozenset(),
    ) -> None:
        self._stages = _stages(spec)
        self._piece_of = piece_of
        self._skip = skip

    def skips(self, token_id: int) -> bool:
        """Whether an id is left out on purpose."""
        return token_id in self._skip

    def push(self, ids: Iterable[int]) -> str:
        """The text that these ids complete; may be empty."""
        out: list[str] = []
        for token_id in ids:
            if token_id in self._skip:
                continue
            piece = self._piece_of(token_id)
            if piece is not None:
                out += self._run([_Added(piece[0]) if piece[1] else piece[0]], 0)
        return "".join(out)

    def flush(self, cut: bool = False) -> str:
        """The rest of the text. Afterwards the decoder is as new. The bytes of an unfinished character
        become U+FFFD, as in the library's decode; with `cut` (the answer was broken off there) they
        are left out."""
        out: list[str] = []
        for index, stage in enumerate(self._stages):
            out += self._run(stage.end(cut), index + 1)
        return "".join(out)

    def _run(self, pieces: list[str], first: int) -> list[str]:
        for stage in self._stages[first:]:
            pieces = [done for piece in pieces for done in stage.feed(piece)]
        return pieces


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """The 256 printable stand-ins of byte-level BPE: printable Latin-1 bytes stand for themselves,
    the others for U+0100 onwards in order. Source: GPT-2's encoder (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + n): byte for n, byte in enumerate(others)})
    return table


class _ByteLevel:
    """Pieces in the byte alphabet -> bytes -> UTF-8; wrong bytes become U+FFFD."""

    def __init__(self) -> None:
        self._bytes = byte_alphabet()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: str) -> list[str]:
        if isinstance(piece, _Added):
            data = piece.encode()
        else:
            try:
                data = bytes([self._bytes[char] for char in piece])
            except KeyError:  # a piece outside the alphabet stands for itself
                data = piece.encode()
        text = self._utf8.decode(data)
        return [text] if text else []

    def end(self, cut: bool) -> list[str]:
        text = "" if cut else self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return [text] if text else []


class _ByteFallback:
    """A run of <0xNN> pieces -> its UTF-8 text, or one U+FFFD for each byte when the run is not valid
    UTF-8."""

    _PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")

    def __init__(self) -> None:
        self._run = bytearray()

    def feed(self, piece: str) -> list[str]:
        match = self._PIECE.match(piece)
        if match:
            self._run.append(int(match[1], 16))
            return []
        return [*self.end(False), piece]

    def end(self, cut: bool) -> list[str]:
        if not self._run:
            return []
        try:
            text, _ = codecs.utf_8_decode(self._run, "strict", not cut)
        except UnicodeDecodeError:
            text = "\ufffd" * len(self._run)
        self._run.clear()
        return [text]


class _Each:
    """Changes every piece by itself. The change is told whether the piece is the first."""

    def __init__(self, change: Callable[[str, bool], str]) -> None:
        self._change = change
        self._first = True

    def feed(self, piece: str) -> list[str]:
        text = self._change(piece, self._first)
        self._first = False
        return [text]

    def end(self, cut: bool) -> list[str]:
        self._first = True
        return []


class _StripFused:
    """Removes up to `start` characters `content` from the front of the whole text, and up to `stop`
    from its end."""

    def __init__(self, content: str, start: int, stop: int) -> None:
        self._content, self._start, self._stop = content, start, stop
        self._left = start
        self._held = ""

    def feed(self, piece: str) -> list[str]:
        while self._left and piece:
            if piece.startswith(self._content):
                piece = piece[len(self._content) :]
                self._left -= 1
            else:
                self._left = 0
        text = self._held + piece
        keep = len(text)
        while keep and len(text) - keep < self._stop and text[keep - 1] == self._content:
            keep -= 1
        self._held = text[keep:]
        return [text[:keep]] if keep else []

    def end(self, cut: bool) -> list[str]:
        self._left, self._held = self._start, ""
        return []


class _Suffixed:
    """BPE pieces with a mark at the end of a word. It becomes a space, or nothing at the end of the text."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._held: str | None = None

    def feed(self, piece: str) -> list[str]:
        before, self._held = self._held, piece
        return [] if before is None else [before.replace(self._suffix, " ")]

    def end(self, cut: bool) -> list[str]:
        last, self._held = self._held, None
        return [] if last is None else [last.replace(self._suffix, "")]


def _strip_piece(content: str, start: int, stop: int) -> Callable[[str, bool], str]:
    def strip(piece: str, first: bool) -> str:
        begin = 0
        while begin < min(start, len(piece)) and piece[begin] == content:
            begin += 1
        end = len(piece)
        while end > begin and len(piece) - end < stop and piece[end - 1] == content:
            end -= 1
        return piece[begin:end]

    return strip


def _metaspace(spec: Mapping[str, Any]) -> Callable[[str, bool], str]:
    mark = spec.get("replacement", "\u2581")
    # old files say add_prefix_space, newer ones prepend_scheme; without either the library takes
    # "always"
    scheme = spec.get("prepend_scheme", "always" if spec.get("add_prefix_space", True) else "never")

    def change(piece: str, first: bool) -> str:
        return piece.replace(mark, "" if first and scheme != "never" else " ")

    return change


# What WordPiece's cleanup replaces, in the library's order.
_CLEANUP = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
]


def _wordpiece(spec: Mapping[str, Any]) -> Callable[[str, bool], str]:
    prefix, cleanup = spec.get("prefix", "##"), spec.get("cleanup", True)

    def change(piece: str, first: bool) -> str:
        if not first:
            piece = piece[len(prefix) :] if piece.startswith(prefix) else " " + piece
        if cleanup:
            for dirty, clean in _CLEANUP:
                piece = piece.replace(dirty, clean)
        return piece

    return change


def _replace(spec: Mapping[str, Any], fused: bool) -> Callable[[str, bool], str]:
    pattern, content = spec["pattern"], spec["content"]
    if "String" in pattern:
        literal: str = pattern["String"]
        if fused and len(literal) > 1:
            raise ModelError(
                "tokenizer.json: a decoder that replaces text across tokens is not supported"
            )
        return lambda piece, first: piece.replace(literal, content)
    if fused:
        raise ModelError(
            "tokenizer.json: a decoder that replaces text across tokens is not supported"
        )
    return _substitute(pattern["Regex"], content)


@functools.cache
def _substitute(pattern: str, content: str) -> Callable[[str, bool], str]:
    """A replacement by a regular expression, which is checked and timed once."""
    checked = Regex(pattern, "tokenizer.json: its decoder")
    try:
        regex = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ModelError(
            f"tokenizer.json: the decoder's pattern is not supported: {error}"
        ) from error
    time_suspects(
        lambda text: regex.sub(lambda match: content, text),
        checked.suspects,
        "tokenizer.json: its decoder",
    )

    def change(piece: str, first: bool) -> str:
        if len(piece) > MAX_REPLACED:
            raise ModelError(
                f"tokenizer.json: an entry of {len(piece)} characters in its vocabulary, to be decoded by a regular "
                f"expression, is longer than {MAX_REPLACED}"
            )
        return regex.sub(lambda match: content, piece)

    return change


def _stages(spec: Mapping[str, Any] | None) -> list[_Stage]:
    if spec is None:
        return [_Each(lambda piece, first: piece if first else " " + piece)]
    stages: list[_Stage] = []
    fused = False  # whether the next stage gets one text, no longer single pieces
    try:
        for part in spec["decoders"] if spec["type"] == "Sequence" else [spec]:
            kind = part["type"]
            if kind == "ByteLevel":
                stages.append(_ByteLevel())
                fused = True
            elif kind == "Fuse":
                fused = True
            elif kind == "Replace":
                stages.append(_Each(_replace(part, fused)))
            elif kind == "Strip":
                amounts = part["content"], part["start"], part["stop"]
                stages.append(_StripFused(*amounts) if fused else _Each(_strip_piece(*amounts)))
            elif kind in ("ByteFallback", "Metaspace", "WordPiece", "BPEDecoder") and not fused:
                if kind == "ByteFallback":
                    stages.append(_ByteFallback())
                elif kind == "BPEDecoder":
                    stages.append(_Suffixed(part.get("suffix", "</w>")))
                else:
                    stages.append(_Each((_metaspace if kind == "Metaspace" else _wordpiece)(part)))
            else:
                raise ModelError(f"tokenizer.json: decoder {kind!r} is not supported here")
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"tokenizer.json: its decoder is malformed ({error!r})") from error
    return stages
