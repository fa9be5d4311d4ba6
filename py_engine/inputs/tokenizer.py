"""Text to token ids and back, over the `tokenizers` library of the host.

Control tokens (`<|im_end|>`, `<think>`, ...) are words of the template, not of the people who write
into it: in a person's text they stay plain text. So the library is loaded from a tokenizer.json
without them, it never sees one, and this file cuts them out of the texts where they count. Added
tokens that are ordinary vocabulary (Gemma's "\\n\\n", `<table>`) stay with the library, which finds
them everywhere. One vocabulary in memory serves both, and both hosts do the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from py_engine.errors import FormatError, InputError, ModelError
from py_engine.host import load_tokenizer_library
from py_engine.host.json_text import parse_json
from py_engine.host.tokenizers import TokenizerLibrary

from .bert_tokenizer import settle_normalizer
from .detokenizer import StreamDecoder
from .tokenizer_checks import (
    MAX_ADDED,
    MAX_ADDED_CHARS,
    MAX_TEXT,
    check_head,
    check_ids,
    check_time,
    check_unigram,
    time_suspects,
)

MAX_JSON_BYTES = 64 << 20  # a 262k vocabulary with its merges as pairs is 33 MB

# Files mark many tokens that steer a model as ordinary (special: false): Qwen's <think>, DeepSeek's
# <｜User｜>, GLM's [gMASK]. Ordinary ones are words, white space and names of HTML, which Gemma has.
_WORDS = re.compile(r"[\w\s\u2581'#-]*")
_HTML = re.compile(
    r"</?(a|abbr|article|aside|audio|b|bbox|blockquote|body|br|button|caption|center|code|col|dd|del|"
    r"details|div|dl|dt|em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|"
    r"input|ins|label|li|link|main|meta|nav|object|ol|option|p|pre|q|s|script|section|select|small|"
    r"span|strike|strong|style|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul|"
    r"var|video)/?>"
)

_ENTRY = re.compile(rb"\s*:\s*(\d+)")  # of a vocabulary, behind its key
# The rest of a file behind `"vocab": {`: entries and merges. Any other key there could contradict the head.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TAIL = re.compile(
    rb"(?:\s*" + _TEXT + rb"\s*:\s*\d+\s*,?)*+\s*\}"
    rb'(?:\s*,\s*"merges"\s*:\s*\[(?:[^":{}]++|' + _TEXT + rb")*+)?\}\s*\}\s*",
    re.DOTALL,
)
_SPACE = re.compile(r"\s*")
MAX_NAMES = 256  # of bos_token and its like; each is looked for in the vocabulary
MAX_AROUND = 1024  # ids that a post-processor puts around a text
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True)
class AddedToken:
    """An entry of `added_tokens`. `control`: recognised only in a template's own text. `special`:
    not shown to people."""

    id: int
    content: str
    special: bool
    control: bool
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False

    def entry(self) -> dict[str, Any]:
        """As tokenizer.json has it."""
        return {key: value for key, value in asdict(self).items() if key != "control"}


def require_text(text: object, what: str) -> str:
    """The text itself. Raises InputError when it is no str or holds a lone surrogate, which no
    UTF-8 can carry."""
    if not isinstance(text, str):
        raise InputError(f"{what} must be a str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds a lone surrogate (U+{ord(text[error.start]):04X} at index "
            f"{error.start}): it was cut inside a character or decoded wrongly; "
            "replace it, for example by U+FFFD"
        ) from error
    return text


class Tokenizer:
    """Made by `await Tokenizer.load(...)`; `close()` frees the vocabulary.

    added       every added token by id
    control     ids of the control tokens by their text
    special     ids that decoding leaves out
    stop_ids    ids that end an answer, sorted
    names       texts of bos_token, eos_token, ... as templates know them
    """

    def __init__(
        self,
        library: TokenizerLibrary,
        added: Iterable[AddedToken],
        *,
        decoder: Mapping[str, Any] | None = None,
        prefix: Iterable[int] = (),
        suffix: Iterable[int] = (),
        stop_ids: Iterable[int] = (),
        names: Mapping[str, str] | None = None,
        unk_id: int | None = None,
        first_mark: str = "",
        vocab_size: int | None = None,
        growth: int = 1,
        timed: bool = False,
    ) -> None:
        """`growth`: characters that the normalizers make of one; `timed`: whether a long text is timed in parts first,
        since the time may grow faster than the text."""
        self.added = {token.id: token for token in added}
        self.control = {token.content: token.id for token in self.added.values() if token.control}
        self.special = frozenset(token.id for token in self.added.values() if token.special)
        self.stop_ids = tuple(sorted(set(stop_ids)))
        self.names = dict(names or {})
        self._library = library
        self._decoder = decoder
        self._prefix, self._suffix = list(prefix), list(suffix)
        self._forbidden = frozenset(self.control.values()) - {unk_id}
        self._first_mark = first_mark
        self._vocab_size = vocab_size
        self._most_chars = MAX_TEXT // growth
        self._timed = timed
        # Lengths of control tokens by their first character, longest first.
        self._lengths: dict[str, list[int]] = {}
        for content in self.control:
            lengths = self._lengths.setdefault(content[0], [])
            if len(content) not in lengths:
                lengths.append(len(content))
                lengths.sort(reverse=True)
        starts = re.escape("".join(self._lengths))
        self._starts = re.compile(f"[{starts}]") if starts else None
        self.decoder()  # an unsupported decoder is an error now, not at the first answer

    @classmethod
    async def load(
        cls,
        data: bytes,
        config: Mapping[str, Any] | None = None,
        generation_config: Mapping[str, Any] | None = None,
        model_config: Mapping[str, Any] | None = None,
        special_tokens_map: Mapping[str, Any] | None = None,
        *,
        load_library: Callable[[bytes], Awaitable[TokenizerLibrary]] = load_tokenizer_library,
    ) -> Tokenizer:
        """From the bytes of tokenizer.json and the parsed tokenizer_config.json, generation_config.json, config.json
        and special_tokens_map.json (each may be missing). stop_ids are the eos tokens that any of the four names;
        config's vocab_size (also inside text_config) bounds the ids that encoding may give. Raises FormatError for a
        file that is no tokenizer.json, ModelError for one that is not supported."""
        try:
            return await cls._load(
                data, config, generation_config, model_config, special_tokens_map, load_library
            )
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            IndexError,
            OverflowError,
        ) as error:
            # Whatever part of it is of another type than its place wants.
            raise FormatError(
                f"tokenizer.json is malformed ({error!r:.300}): fetch it again, or use another revision"
            ) from error

    @classmethod
    async def _load(
        cls,
        data: bytes,
        config: Mapping[str, Any] | None,
        generation_config: Mapping[str, Any] | None,
        model_config: Mapping[str, Any] | None,
        special_tokens_map: Mapping[str, Any] | None,
        load_library: Callable[[bytes], Awaitable[TokenizerLibrary]],
    ) -> Tokenizer:
        config, model_config = config or {}, model_config or {}
        if len(data) > MAX_JSON_BYTES:
            raise ModelError(
                f"tokenizer.json has {len(data)} bytes, above the limit of {MAX_JSON_BYTES}"
            )
        parts = _JsonParts(bytes(data))
        settle_normalizer(parts.head, parts.fields, config, model_config)
        suspects, growth = check_head(parts.head, parts.fields)
        names = _names(config, special_tokens_map)
        unk = parts.fields.get("unk_token")
        added = _added_tokens(parts.head.get("added_tokens"), config, set(names.values()))
        added += parts.named({*names.values()} - {unk} - {token.content for token in added})
        control = [token for token in added if token.control]
        kept = [token for token in added if not token.control]
        prefix, suffix = _around(parts.head.get("post_processor"))
        check_ids([*prefix, *suffix], "its post_processor")
        unk_id = next((token.id for token in added if token.content == unk), None)
        first_mark = _take_first_mark(parts.head)
        ends = {
            found.get("eos_token") for found in (names, _names(config), _names(special_tokens_map))
        }
        stop_ids = [token.id for token in added if token.content in ends]
        stop_ids += _eos_ids(generation_config, model_config, model_config.get("text_config"))

        library = await load_library(parts.edited(kept))
        forbidden = {token.id for token in control} - {unk_id}
        if any(forbidden.intersection(library.encode(token.content)) for token in control):
            # The model's own merges build a control token out of plain text: take it out of the
            # model too.
            library.close()
            library = await load_library(
                parts.edited(kept, without={t.content for t in control} - {unk})
            )
        for token in kept:
            if library.id_to_token(token.id) != token.content:
                library.close()
                raise ModelError(
                    f"tokenizer.json: added token {token.content!r} has id {token.id} there, "
                    "but the model's vocabulary has no such entry"
                )
        try:
            time_suspects(library.encode, suspects, "tokenizer.json")
        except ModelError:
            library.close()
            raise
        return cls(
            library,
            added,
            decoder=parts.head.get("decoder"),
            prefix=prefix,
            suffix=suffix,
            stop_ids=stop_ids,
            names=names,
            unk_id=unk_id,
            first_mark=first_mark,
            vocab_size=_vocab_size(model_config),
            growth=growth,
            timed=bool(suspects),
        )

    def encode(
        self, text: str, add_special_tokens: bool = False, control: bool = False
    ) -> list[int]:
        """Ids of a text. Control tokens in it stay plain text unless `control` (a template's text,
        a raw prompt of someone who means them). `add_special_tokens` puts around it what the file's
        post-processor does, for example `<bos>`. Raises InputError for lone surrogates, ModelError
        when an id lies outside the model's vocabulary."""
        require_text(text, "the text")
        pieces = self.split(text) if control else [(text, False)]
        ids = self.encode_pieces(pieces)
        return self._known(self.with_special(ids)) if add_special_tokens else ids

    def with_special(self, ids: Iterable[int]) -> list[int]:
        """Ids of a text with what the file's post-processor puts around one."""
        return [*self._prefix, *ids, *self._suffix]

    def encode_pieces(self, pieces: Iterable[tuple[str, bool]]) -> list[int]:
        """Ids of (text, is a control token) pieces, as `split` and `ChatTemplate.pieces` give them.
        A text that is no control token is plain, whatever it holds."""
        ids: list[int] = []
        first = True
        for text, is_control in pieces:
            if is_control:
                ids.append(self.control[text])
            elif text:
                ids += self._plain(text, first)
            first = False
        return self._known(ids)

    def _known(self, ids: list[int]) -> list[int]:
        if self._vocab_size is not None and ids and max(ids) >= self._vocab_size:
            raise ModelError(
                f"the tokenizer gives id {max(ids)}, but the model's vocabulary ends at "
                f"{self._vocab_size}: tokenizer.json and config.json do not belong together"
            )
        return ids

    def count_tokens(self, text: str, add_special_tokens: bool = False) -> int:
        """Number of ids that `encode` gives."""
        return len(self.encode(text, add_special_tokens))

    def find_control(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, stop) of the control tokens in a text: leftmost, then longest."""
        done = 0
        for match in self._starts.finditer(text) if self._starts else ():
            at = match.start()
            if at < done:
                continue
            for length in self._lengths[match[0]]:
                found = self.control.get(text[at : at + length])
                if found is None:
                    continue
                if self.added[found].single_word and _inside_word(text, at, at + length):
                    continue
                done = at + length
                yield at, done
                break

    def split(self, text: str) -> list[tuple[str, bool]]:
        """The text cut at its control tokens: (text, is a control token). White space beside a token that
        swallows it (lstrip, rstrip) is gone."""
        pieces: list[tuple[str, bool]] = []
        done = 0
        for start, stop in self.find_control(text):
            token = self.added[self.control[text[start:stop]]]
            before = text[done:start]
            if token.lstrip:
                before = before.rstrip()
            done = stop
            if token.rstrip:
                done += len(_SPACE.match(text, done)[0])  # type: ignore[index]  # it always matches
            pieces += [(before, False)] if before else []
            pieces.append((token.content, True))
        return pieces + ([(text[done:], False)] if done < len(text) else [])

    def decoder(
        self, skip_special_tokens: bool = True, keep: Collection[int] = ()
    ) -> StreamDecoder:
        """A new streaming decoder. `keep`: ids that are not skipped, though they are special."""
        skip = self.special.difference(keep) if skip_special_tokens else frozenset()
        return StreamDecoder(self._decoder, self.piece, skip)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of a whole sequence; equals the library's own decode."""
        decoder = self.decoder(skip_special_tokens)
        return decoder.push(ids) + decoder.flush()

    def piece(self, token_id: int) -> tuple[str, bool] | None:
        """(text as it stands in the vocabulary, is an added token), None for an unknown id."""
        token = self.added.get(token_id)
        if token is not None:
            return token.content, True
        text = self._library.id_to_token(token_id)
        return None if text is None else (text, False)

    def close(self) -> None:
        """Free the library's memory; the tokenizer is of no use afterwards."""
        self._library.close()

    def _plain(self, text: str, first: bool) -> list[int]:
        mark = self._first_mark
        if first and mark and not text.startswith((" ", mark)) and not self._starts_added(text):
            text = mark + text
        if len(text) > self._most_chars:
            raise InputError(
                f"the text has {len(text)} characters; this model's tokenizer takes {self._most_chars} at a time"
            )
        if self._timed:
            check_time(self._library.encode, text)
        ids = self._library.encode(text)
        if not self._forbidden.isdisjoint(ids):
            found = next(token_id for token_id in ids if token_id in self._forbidden)
            name = self.added[found].content
            raise InputError(
                f"the text encodes to a control token of this model ({name!r}), which "
                " only its template may give: take it out of the text"
            )
        return ids

    def _starts_added(self, text: str) -> bool:
        return any(text.startswith(t.content) for t in self.added.values() if not t.control)


class _JsonParts:
    """A tokenizer.json in two: the small head as Python objects, the `model` as bytes, so that a
    vocabulary of 250,000 entries and as many merges never become Python objects (100 MB of them)
    for nothing. Files whose keys stand in an unusual order are parsed whole."""

    _BEFORE_MODEL = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._vocab_at = -1  # where the entries of "vocab" begin
        self._model_at = -1  # where the model's "{" stands
        if not self._cut():
            self.head = _object(data)
            model = self.head.pop("model", None)
            if not isinstance(model, dict):
                raise FormatError(
                    "tokenizer.json has no model: it is no file of the tokenizers library"
                )
            self._model: dict[str, Any] | None = model
            self.fields = {
                key: value for key, value in model.items() if key not in ("vocab", "merges")
            }
            if isinstance(model.get("vocab"), list):
                check_unigram(model["vocab"])

    def edited(self, kept: list[AddedToken], without: set[str] | None = None) -> bytes:
        """The file with only the `kept` added tokens, which enter the vocabulary so that their ids
        stay; without padding, truncation and post-processor; and with a model that cannot build the
        tokens `without`."""
        head = dict(self.head, padding=None, truncation=None, post_processor=None)
        head["added_tokens"] = [token.entry() for token in kept]
        if self._model is None and not without and self.fields.get("dropout") is None:
            entries = "".join(f"{json.dumps(token.content)}:{token.id}," for token in kept)
            close = b"}" if self._data[self._vocab_at :].lstrip()[:1] == b"}" else b""
            return b"".join(
                [
                    json.dumps(head).encode()[:-1],
                    b',"model":',
                    self._data[self._model_at : self._vocab_at],
                    entries.encode()[:-1] if close else entries.encode(),
                    self._data[self._vocab_at :],
                ]
            )
        model = dict(self._model if self._model is not None else _object(self._data)["model"])
        model["dropout"] = None  # a random choice of merges is for training
        if not isinstance(model.get("vocab"), list):  # Unigram's is a list: ids are places in it
            model["vocab"] = {**model.get("vocab", {}), **{t.content: t.id for t in kept}}
            if without:
                model["vocab"] = {k: v for k, v in model["vocab"].items() if k not in without}
                model["merges"] = [m for m in model.get("merges", []) if not _involves(m, without)]
        if "merges" not in model or model.get("type") not in (None, "BPE"):
            model.pop("dropout")
        return json.dumps({**head, "model": model}).encode()

    def named(self, texts: set[str]) -> list[AddedToken]:
        """Those of these texts that are entries of the vocabulary, as control tokens: a file's bos and eos
        are, also where its added_tokens do not tell."""
        ids = {text: self._id_of(text) for text in texts if text}
        return [AddedToken(i, text, True, True) for text, i in ids.items() if i is not None]

    def _id_of(self, text: str) -> int | None:
        if self._model is None:
            for spelling in {json.dumps(text), json.dumps(text, ensure_ascii=False)}:
                at = self._data.find(spelling.encode(), self._vocab_at)
                while at >= 0:
                    entry = _ENTRY.match(self._data, at + len(spelling.encode()))
                    if entry and self._data[at - 1 : at] != b"\\":
                        return int(entry[1])
                    at = self._data.find(spelling.encode(), at + 1)
            return None
        vocab = self._model.get("vocab")
        if isinstance(vocab, list):
            places = (n for n, entry in enumerate(vocab) if isinstance(entry, list) and entry)
            return next((n for n in places if vocab[n][0] == text), None)
        found = vocab.get(text) if isinstance(vocab, Mapping) else None
        return found if type(found) is int else None

    def _cut(self) -> bool:
        """Find the model without parsing it; False when the file does not look as the library
        writes it."""
        match = re.search(rb'(?<!\\)"model"\s*:\s*(?=\{)', self._data)
        if match is None:
            return False
        vocab = re.compile(rb'(?<!\\)"vocab"\s*:\s*\{').search(self._data, match.end())
        if vocab is None:
            return False
        try:
            head = parse_json(self._data[: match.start()] + b'"model":null}', "its head")
            model = self._data[match.end() : vocab.start()] + b'"vocab":null}'
            fields = parse_json(model, "its model")
        except FormatError:
            return False
        if not isinstance(head, dict) or any(key not in head for key in self._BEFORE_MODEL):
            return False
        del head["model"], fields["vocab"]
        if "merges" in fields or "type" not in fields:
            return False
        if not _TAIL.fullmatch(self._data, vocab.end()):
            return False
        self.head, self.fields, self._model = head, fields, None
        self._model_at, self._vocab_at = match.end(), vocab.end()
        return True


def _object(data: bytes) -> dict[str, Any]:
    value = parse_json(data, "tokenizer.json", MAX_JSON_BYTES)
    if not isinstance(value, dict):
        raise FormatError("tokenizer.json is not a JSON object")
    return value


def _involves(merge: Any, tokens: set[str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in tokens or right in tokens or left + right in tokens


def _inside_word(text: str, start: int, stop: int) -> bool:
    return bool(re.search(r"\w", text[max(start - 1, 0) : start] + text[stop : stop + 1]))


def _added_tokens(entries: Any, config: Mapping[str, Any], named: set[str]) -> list[AddedToken]:
    """Of tokenizer.json, and those that only tokenizer_config.json's added_tokens_decoder has, as
    transformers loads them. `named`: which the files call bos, eos and so on."""
    merged: dict[str, dict[str, Any]] = {}
    if len(entries or ()) > MAX_ADDED:
        raise ModelError(f"tokenizer.json adds {len(entries)} tokens, more than {MAX_ADDED}")
    try:
        for entry in entries or []:
            merged[entry["content"]] = dict(entry)
        for key, entry in (config.get("added_tokens_decoder") or {}).items():
            known = merged.setdefault(entry["content"], {**entry, "id": int(key)})
            known["special"] = bool(known.get("special")) or bool(entry.get("special"))
        tokens = []
        for content, entry in merged.items():
            token_id, special = entry["id"], bool(entry.get("special"))
            if not isinstance(content, str) or type(token_id) is not int or token_id < 0:
                raise ValueError(f"{content!r} with id {token_id!r}")
            if len(content) > MAX_ADDED_CHARS:
                raise ValueError(f"one of {len(content)} characters, more than {MAX_ADDED_CHARS}")
            if not content:
                continue  # it would be found everywhere; the library passes over it too
            flags = {name: bool(entry.get(name)) for name in _FLAGS}
            ordinary = _WORDS.fullmatch(content) or _HTML.fullmatch(content)
            control = special or content in named or not ordinary
            tokens.append(AddedToken(token_id, content, special, control, **flags))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"tokenizer.json: its added_tokens are malformed: {error!r}") from error
    return tokens


def _around(processor: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    """Ids that a post-processor puts before and after a single text."""
    if processor is None:
        return [], []
    before: list[int] = []
    after: list[int] = []
    try:
        kind = processor["type"]
        if kind == "Sequence":
            for part in processor["processors"]:
                prefix, suffix = _around(part)
                before, after = prefix + before, after + suffix
                _check_around(before, after)
        elif kind in ("BertProcessing", "RobertaProcessing"):
            before, after = [processor["cls"][1]], [processor["sep"][1]]
        elif kind == "TemplateProcessing":
            side = before
            for item in processor["single"]:
                if "Sequence" in item:
                    side = after
                else:
                    side += processor["special_tokens"][item["SpecialToken"]["id"]]["ids"]
                    _check_around(before, after)
        elif kind != "ByteLevel":  # which only trims offsets
            raise ModelError(f"tokenizer.json: post-processor {kind!r} is not supported")
    except (KeyError, TypeError, IndexError) as error:
        raise FormatError(f"tokenizer.json: its post_processor is malformed: {error!r}") from error
    return before, after


def _check_around(before: list[int], after: list[int]) -> None:
    if len(before) + len(after) > MAX_AROUND:
        raise ModelError(
            f"tokenizer.json: its post_processor puts more than {MAX_AROUND} ids around a text"
        )


def _take_first_mark(head: dict[str, Any]) -> str:
    """Metaspace with prepend_scheme "first" marks the begin of the whole text only. The library
    sees the text in pieces, so the scheme is switched off in `head` and the mark, which is
    returned, is put there by `Tokenizer._plain`."""
    mark = ""
    splitter = head.get("pre_tokenizer") or {}
    for part in [splitter, *splitter.get("pretokenizers", [])]:
        if part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
            mark = part.get("replacement", "\u2581")
    return mark


def _names(
    config: Mapping[str, Any] | None, special_tokens_map: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """bos_token and its like of tokenizer_config.json, given there as a string or an object. Files of before
    added_tokens_decoder have them in special_tokens_map.json, which counts then, as in transformers."""
    given = dict(config or {})
    if "added_tokens_decoder" not in given:
        given.update(special_tokens_map or {})
    names = {}
    for key, value in given.items():
        if key.endswith("_token"):
            text = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(text, str):
                names[key] = text
    if len(names) > MAX_NAMES:
        raise ModelError(f"tokenizer_config.json names more than {MAX_NAMES} tokens")
    return names


def _eos_ids(*configs: Any) -> list[int]:
    ids = []
    for config in configs:
        given = config.get("eos_token_id") if isinstance(config, Mapping) else None
        for value in given if isinstance(given, list) else [given]:
            if value is None:
                continue
            if type(value) is not int or value < 0:
                raise ModelError(f"eos_token_id must be an id or a list of ids, not {given!r}")
            ids.append(value)
    return ids


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    inner = config.get("text_config")
    size = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, Mapping) else None)
    return size if type(size) is int else None
