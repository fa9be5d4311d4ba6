"""Checks a tokenizer.json before the tokenizers library gets it.

The library trusts the file: it runs the file's regular expressions however long they take, and lets its replacements
make a text as long as they like. Here both are limited; a file that breaks the limits is a ModelError.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

from py_engine.errors import FormatError, ModelError

from .regex_cost import Regex, Suspect

MAX_STEPS = 256  # normalizers, pre-tokenizers or decoders in all; published files have up to ten
MAX_GROWTH = 1000  # characters that the normalizers, or the decoders, may make of one character
MAX_TEXT = 16 << 20  # characters of a normalised text
MAX_WORD = (
    256  # WordPiece: characters of a word; the time grows with its cube; published files say 100
)
MAX_PREFIXES = (
    128  # Unigram: entries that are prefixes of one entry; each is tried at every character
)
MAX_PIECE = 512  # Unigram: characters of an entry; they are compared at every character of a text
MAX_ADDED = 100_000
MAX_ADDED_CHARS = 1024

# Most characters that the library's own normalizers make of one (NFKD of U+FDFA has 18).
_OWN_GROWTH = {"NFD": 4, "NFKC": 18, "NFKD": 18, "BertNormalizer": 12, "Nmt": 1, "Lowercase": 3}
_PARTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}

_TRIAL_SIZES = (32, 128, 512, 2048)  # characters
_TRIAL_S = 1.0  # a trial may take so long; for a growing time the next trial's is predicted
_WINDOW = 4096  # characters of the first part of a long text that is timed
_WINDOWS = 8
_NOTICED_S = 0.01  # shorter times are not compared
_BEYOND_LINEAR = 8  # four times the text may take so many times the time
_PATIENCE_S = 1.5  # encoding a text may take so long, where the time grows faster than the text


def check_head(head: Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[list[Suspect], int]:
    """Check a tokenizer.json. `head`: the file without its model; `fields`: the model without vocabulary and merges.

    Returns the loops of its regular expressions that must be timed, and how many characters the normalizers can make of
    one. Raises ModelError for what is not supported, or would take too much time or memory; FormatError when this is no
    tokenizer.json.
    """
    suspects: list[Suspect] = []
    growth = 1
    for name in _PARTS:
        grown = 1
        steps = list(_steps(head.get(name), name))
        for number, step in enumerate(steps):
            if number >= MAX_STEPS:
                raise ModelError(f"tokenizer.json: its {name} has more than {MAX_STEPS} steps")
            regex = _regex(step, name)
            # The decoder's expressions run in Python and are checked in inputs/detokenizer.py.
            if regex is not None and name != "decoder":
                suspects += regex.suspects
            if name != "pre_tokenizer":
                grown = min(grown * _growth(step, name), 1 << 40)
        if grown > MAX_GROWTH:
            raise ModelError(
                f"tokenizer.json: its {name} can make {grown} characters of one by replacing again and again, more "
                f"than {MAX_GROWTH}: no model needs that. Use another revision of the model."
            )
        growth = grown if name == "normalizer" else growth
    _check_model(fields)
    return suspects, growth


def _steps(part: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, in order, without the sequences that hold them."""
    if part is None:
        return
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        raise FormatError(
            f"tokenizer.json: its {name} must be an object with a type, not {part!r:.80}"
        )
    if part["type"] != "Sequence":
        yield part
        return
    inner = part.get(_PARTS[name])
    if not isinstance(inner, list):
        raise FormatError(f"tokenizer.json: a sequence of its {name} has no list of {_PARTS[name]}")
    for each in inner:
        yield from _steps(each, name)


def _regex(step: Mapping[str, Any], name: str) -> Regex | None:
    """The regular expression of a Split or Replace, checked; None where there is none."""
    if step["type"] not in ("Split", "Replace"):
        return None
    pattern = step.get("pattern")
    if isinstance(pattern, str):
        return None
    if not isinstance(pattern, Mapping) or len(pattern) != 1:
        raise FormatError(f"tokenizer.json: the pattern of a {step['type']} is {pattern!r:.80}")
    ((kind, text),) = pattern.items()
    if kind not in ("String", "Regex") or not isinstance(text, str):
        raise FormatError(f"tokenizer.json: the pattern of a {step['type']} is {pattern!r:.80}")
    return Regex(text, f"tokenizer.json: its {name}") if kind == "Regex" else None


def _growth(step: Mapping[str, Any], name: str) -> int:
    """The most characters that a step makes of one."""
    kind = step["type"]
    if kind == "Replace":
        content = step.get("content")
        if not isinstance(content, str):
            raise FormatError(f"tokenizer.json: a Replace of its {name} puts {content!r:.80}")
        pattern = step.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, Mapping) else pattern
        if isinstance(literal, str) and literal:
            return max(1, -(-len(content) // len(literal)))
        return 1 + len(content)  # it may match the empty text between all characters
    if kind == "Prepend":
        return 1 + len(str(step.get("prepend", "")))
    if kind == "Precompiled":
        return _charsmap_growth(step.get("precompiled_charsmap"))
    if kind == "Strip" and name == "decoder":
        _check_strip(step)
    return _OWN_GROWTH.get(kind, 1)


def _check_strip(step: Mapping[str, Any]) -> None:
    content, amounts = step.get("content"), (step.get("start"), step.get("stop"))
    if not isinstance(content, str) or len(content) != 1:
        raise FormatError(f"tokenizer.json: its decoder strips {content!r:.80}, not a character")
    if any(type(n) is not int or not 0 <= n <= 1000 for n in amounts):
        raise FormatError(f"tokenizer.json: its decoder strips {amounts!r:.80} characters")


def _charsmap_growth(encoded: Any) -> int:
    """The growth by SentencePiece's table: the size of its double array (u32), the array, then texts that end in
    NUL."""
    try:
        data = base64.b64decode(encoded or "", validate=True)
    except (TypeError, ValueError, binascii.Error):
        data = b""
    size = int.from_bytes(data[:4], "little")
    units = memoryview(data[4 : 4 + size])
    if len(data) < 8 or len(units) != size or not size or size % 4:
        raise FormatError("tokenizer.json: the precompiled_charsmap of its normalizer is damaged")
    try:
        texts = data[4 + size :].decode().split("\0")
    except UnicodeDecodeError as error:
        raise FormatError(
            "tokenizer.json: the precompiled_charsmap of its normalizer is damaged"
        ) from error
    return max(1, *map(len, texts))


def _check_model(fields: Mapping[str, Any]) -> None:
    longest = fields.get("max_input_chars_per_word", 0)
    if type(longest) is not int or not 0 <= longest <= MAX_WORD:
        raise ModelError(
            f"tokenizer.json: max_input_chars_per_word is {longest!r:.80}; up to {MAX_WORD} are supported"
        )


def check_unigram(vocab: Sequence[Any]) -> None:
    """Raise ModelError when too many entries are prefixes of one another, FormatError when this is no vocabulary."""
    try:
        pieces = {piece for piece, _ in vocab}
        long = sorted((piece for piece in pieces if len(piece) > MAX_PREFIXES), key=len)
    except (TypeError, ValueError) as error:
        raise FormatError("tokenizer.json: its vocabulary is no list of [text, score]") from error
    if long and len(long[-1]) > MAX_PIECE:
        raise ModelError(
            f"tokenizer.json: an entry of its vocabulary has {len(long[-1])} characters, more than {MAX_PIECE}"
        )
    looked = 0
    for piece in long:
        looked += len(piece)
        if looked > 4_000_000:
            raise ModelError("tokenizer.json: its vocabulary has too many long entries")
        if sum(piece[:n] in pieces for n in range(1, len(piece) + 1)) > MAX_PREFIXES:
            raise ModelError(
                f"tokenizer.json: more than {MAX_PREFIXES} entries of its vocabulary begin {piece!r:.40}..., and each "
                "would be tried at every character of a text"
            )


def check_ids(ids: Sequence[Any], what: str) -> None:
    """Raise FormatError when one of `ids` is no id."""
    for token_id in ids:
        if type(token_id) is not int or not 0 <= token_id < 1 << 32:
            raise FormatError(f"tokenizer.json: {what} names {token_id!r:.40}, which is no id")


# ---- what it takes, measured


def time_suspects(run: Callable[[str], object], suspects: Sequence[Suspect], where: str) -> None:
    """Time texts of growing length that make the loops backtrack. Raises ModelError before that takes long."""
    for suspect in {s for s in suspects if s.round}:
        for end in ("", "\0", "x"):
            before = 0.0
            for size in _TRIAL_SIZES:
                text = suspect.before + suspect.round * (size // len(suspect.round)) + end
                took = _time(run, text)
                if took > _NOTICED_S:
                    took = min(took, _time(run, text))  # the machine may have been busy
                rise = took / max(before, 1e-6)
                foretold = took if size == _TRIAL_SIZES[-1] else took * rise
                if before and took > _NOTICED_S and rise > _BEYOND_LINEAR and foretold > _TRIAL_S:
                    raise ModelError(
                        f"{where} takes {1000 * took:.0f} ms for {len(text)} characters, and for more of them soon "
                        "minutes: its regular expressions are tried again and again on a text like "
                        f"{text[:12]!r}. Use another revision of the model."
                    )
                before = took


def check_time(run: Callable[[str], object], text: str) -> None:
    """Time parts of a long text. Raises ModelError when the time grows so fast that the whole text would take too
    long."""
    step = max(_WINDOW, len(text) // _WINDOWS)
    for at in range(0, len(text) - _WINDOW // 2, step):
        size = _WINDOW
        while size < len(text) - at:
            took = _time(run, text[at : at + size])
            if took < _NOTICED_S or took < _BEYOND_LINEAR * _time(run, text[at : at + size // 4]):
                break
            longer = min(4 * size, len(text) - at)
            if took * (longer / size) ** 2 > _PATIENCE_S:
                raise ModelError(
                    f"this model's tokenizer takes {1000 * took:.0f} ms for {size} characters of the text (from "
                    f"character {at} on), and for all {len(text)} of it too long: its regular expressions are tried "
                    "again and again there. Give a shorter text, or use another model."
                )
            size = longer


def _time(run: Callable[[str], object], text: str) -> float:
    began = perf_counter()
    run(text)
    return perf_counter() - began
