"""What a tokenizer.json says, and the config files beside it: added tokens, names, ids around a text, and the file that
the tokenizers library is given. inputs/tokenizer.py makes a Tokenizer of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from py_engine.errors import FormatError, ModelError
from py_engine.host.json_text import parse_json

from .tokenizer_checks import MAX_ADDED, MAX_ADDED_CHARS, check_unigram

MAX_JSON_BYTES = 64 << 20  # a 262k vocabulary with its merges as pairs is 33 MB

# Many files mark tokens that steer the model as ordinary (special: false): Qwen's <think>, DeepSeek's <｜User｜>, GLM's
# [gMASK]. So only words, white space and HTML tags (which Gemma has) count as ordinary here.
_WORDS = re.compile(r"[\w\s\u2581'#-]*")
_HTML = re.compile(
    r"</?(a|abbr|article|aside|audio|b|bbox|blockquote|body|br|button|caption|center|code|col|dd|del|"
    r"details|div|dl|dt|em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|"
    r"input|ins|label|li|link|main|meta|nav|object|ol|option|p|pre|q|s|script|section|select|small|"
    r"span|strike|strong|style|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|title|tr|tt|u|ul|"
    r"var|video)/?>"
)

_ENTRY = re.compile(rb"\s*:\s*(\d+)")  # what follows the key of a vocabulary's entry
# The rest of a file after `"vocab": {`: entries and merges, and no other key, which could contradict the head.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TAIL = re.compile(
    rb"(?:\s*" + _TEXT + rb"\s*:\s*\d+\s*,?)*+\s*\}"
    rb'(?:\s*,\s*"merges"\s*:\s*\[(?:[^":{}]++|' + _TEXT + rb")*+)?\}\s*\}\s*",
    re.DOTALL,
)
MAX_NAMES = 256  # entries like bos_token; each is looked up in the vocabulary
MAX_AROUND = 1024  # ids that a post-processor puts around a text
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True)
class AddedToken:
    """An entry of `added_tokens`. `control`: recognised only in a template's own text. `special`: not shown to people.
    The other flags are the tokenizers library's."""

    id: int
    content: str
    special: bool
    control: bool
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False

    def entry(self) -> dict[str, Any]:
        """The entry as tokenizer.json has it."""
        return {key: value for key, value in asdict(self).items() if key != "control"}


class TokenizerJson:
    """A tokenizer.json in two parts: the small `head` as Python objects, and the `model` as bytes. So a vocabulary of
    250,000 entries, and as many merges, need not become Python objects (100 MB of them). A file whose keys stand in an
    unusual order is parsed whole. `fields`: the model's other entries.
    """

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
        """The file for the library: with only the `kept` added tokens, which are added to the vocabulary so that their
        ids stay; without padding, truncation and post-processor; and with a model that cannot build the tokens
        `without`."""
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
        model["dropout"] = None  # merges that are left out at random are for training
        if isinstance(model.get("vocab"), list):
            # Unigram: the index is the id, so an entry stays, under a text that none has.
            model["vocab"] = [
                [f"\0{entry[0]}", *entry[1:]] if without and entry[0] in without else entry
                for entry in model["vocab"]
            ]
        else:
            model["vocab"] = {**model.get("vocab", {}), **{t.content: t.id for t in kept}}
            if without:
                model["vocab"] = {k: v for k, v in model["vocab"].items() if k not in without}
                model["merges"] = [m for m in model.get("merges", []) if not _involves(m, without)]
        if "merges" not in model or model.get("type") not in (None, "BPE"):
            model.pop("dropout")
        return json.dumps({**head, "model": model}).encode()

    @property
    def unknown(self) -> str | None:
        """The token that stands for what the vocabulary lacks."""
        if "unk_id" not in self.fields:
            return self.fields.get("unk_token")
        vocab, at = (self._model or {}).get("vocab"), self.fields["unk_id"]
        if isinstance(vocab, list) and type(at) is int and 0 <= at < len(vocab):
            return str(vocab[at][0])
        return None

    def named(self, texts: set[str]) -> list[AddedToken]:
        """The texts that are entries of the vocabulary, as control tokens. The bos and eos of a file are control tokens
        even where its added_tokens do not list them."""
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
        """Find the model without parsing it. False when the file is not laid out as the library writes it."""
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


def added_tokens(entries: Any, config: Mapping[str, Any], named: set[str]) -> list[AddedToken]:
    """The added tokens of tokenizer.json (`entries`), and those that only added_tokens_decoder in tokenizer_config.json
    has, as transformers loads them. `named`: texts that the files call bos, eos and so on. Raises FormatError,
    ModelError.
    """
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
                continue  # it would match everywhere; the library ignores it too
            flags = {name: bool(entry.get(name)) for name in _FLAGS}
            ordinary = _WORDS.fullmatch(content) or _HTML.fullmatch(content)
            control = special or content in named or not ordinary
            tokens.append(AddedToken(token_id, content, special, control, **flags))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"tokenizer.json: its added_tokens are malformed: {error!r}") from error
    return tokens


def ids_around(processor: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    """Ids that a post-processor puts before and after a single text. Raises FormatError, ModelError."""
    if processor is None:
        return [], []
    before: list[int] = []
    after: list[int] = []
    try:
        kind = processor["type"]
        if kind == "Sequence":
            for part in processor["processors"]:
                prefix, suffix = ids_around(part)
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


def take_first_mark(head: dict[str, Any]) -> str:
    """The mark that belongs at the start of a whole text (Metaspace with prepend_scheme "first"), or "".

    The library sees the text in pieces, so the scheme is switched off in `head`; Tokenizer puts the mark there."""
    mark = ""
    splitter = head.get("pre_tokenizer") or {}
    for part in [splitter, *splitter.get("pretokenizers", [])]:
        if part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
            mark = part.get("replacement", "\u2581")
    return mark


def token_names(
    config: Mapping[str, Any] | None, special_tokens_map: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """bos_token, eos_token, ... of tokenizer_config.json, given there as a string or an object. Models older than
    added_tokens_decoder have them in special_tokens_map.json, which is then used, as in transformers."""
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


def eos_ids(*configs: Any) -> list[int]:
    """All ids that `eos_token_id` of these configs names. Raises ModelError when one is no id."""
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


def vocab_size_of(config: Mapping[str, Any]) -> int | None:
    """`vocab_size` of a config.json, or of its text_config; None when neither has one."""
    inner = config.get("text_config")
    size = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, Mapping) else None)
    return size if type(size) is int else None
