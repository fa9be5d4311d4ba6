"""Text to token ids and back, over the `tokenizers` library of the host.

Control tokens (`<|im_end|>`, `<think>`, ...) belong to the template. In a text that a person wrote they stay plain
text. So the library is loaded from a tokenizer.json without them and never sees one; this file finds them, only in
texts where they count (the template's own). Added tokens that are ordinary vocabulary (Gemma's "\\n\\n", `<table>`)
stay with the library, which finds them everywhere. Both hosts do the same, with one vocabulary in memory.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from py_engine.errors import FormatError, InputError, ModelError
from py_engine.host import load_tokenizer_library
from py_engine.host.tokenizers import TokenizerLibrary

from .bert_tokenizer import settle_normalizer
from .detokenizer import StreamDecoder
from .pairs import PairTemplate, pair_template
from .tokenizer_checks import MAX_TEXT, check_head, check_ids, check_time, time_suspects
from .tokenizer_json import (
    MAX_JSON_BYTES,
    AddedToken,
    TokenizerJson,
    added_tokens,
    eos_ids,
    ids_around,
    take_first_mark,
    token_names,
    vocab_size_of,
)

_SPACE = re.compile(r"\s*")


def require_text(text: object, what: str) -> str:
    """Return the text. Raises InputError when it is no str, or holds a lone surrogate, which UTF-8 cannot carry."""
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
    pair        how two texts are laid out as one; None: the file does not say
    """

    pair: PairTemplate | None = None

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
        """`decoder`: of tokenizer.json. `prefix`, `suffix`: ids that its post-processor puts around a text. `unk_id`: a
        control token that plain text may encode to. `first_mark`: put before the first piece of a text. `vocab_size`:
        of the model; ids from there on are an error. `growth`: characters that the normalizers can make of one.
        `timed`: whether parts of a long text are timed first, because the time may grow faster than the text."""
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
        self.decoder()  # so that an unsupported decoder is an error now, not at the first answer

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
        """Load a tokenizer from the bytes of tokenizer.json and the parsed tokenizer_config.json,
        generation_config.json, config.json and special_tokens_map.json (each of these may be missing).

        `stop_ids` are the eos tokens that any of the four files names. The `vocab_size` of config.json (also inside
        text_config) limits the ids that encoding may give. Raises FormatError for a file that is no tokenizer.json,
        ModelError for one that is not supported."""
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
            # Some part of the file has an unexpected type.
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
        parts = TokenizerJson(bytes(data))
        settle_normalizer(parts.head, parts.fields, config, model_config)
        suspects, growth = check_head(parts.head, parts.fields)
        names = token_names(config, special_tokens_map)
        unk = parts.unknown
        added = added_tokens(parts.head.get("added_tokens"), config, set(names.values()))
        added += parts.named({*names.values()} - {unk} - {token.content for token in added})
        control = [token for token in added if token.control]
        kept = [token for token in added if not token.control]
        prefix, suffix = ids_around(parts.head.get("post_processor"))
        check_ids([*prefix, *suffix], "its post_processor")
        unk_id = next((token.id for token in added if token.content == unk), None)
        first_mark = take_first_mark(parts.head)
        ends = {
            found.get("eos_token")
            for found in (names, token_names(config), token_names(special_tokens_map))
        }
        stop_ids = [token.id for token in added if token.content in ends]
        stop_ids += eos_ids(generation_config, model_config, model_config.get("text_config"))

        library = await load_library(parts.edited(kept))
        forbidden = {token.id for token in control} - {unk_id}
        if any(forbidden.intersection(library.encode(token.content)) for token in control):
            # The model's merges would build a control token out of plain text: remove the token from its vocabulary
            # too.
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
        made = cls(
            library,
            added,
            decoder=parts.head.get("decoder"),
            prefix=prefix,
            suffix=suffix,
            stop_ids=stop_ids,
            names=names,
            unk_id=unk_id,
            first_mark=first_mark,
            vocab_size=vocab_size_of(model_config),
            growth=growth,
            timed=bool(suspects),
        )
        made.pair = pair_template(parts.head.get("post_processor"))
        return made

    def encode(
        self, text: str, add_special_tokens: bool = False, control: bool = False
    ) -> list[int]:
        """Ids of a text. Control tokens in it stay plain text unless `control` is set (for a template's text, or a raw
        prompt that means them). `add_special_tokens` adds what the file's post-processor puts around a text, for
        example `<bos>`. Raises InputError for lone surrogates, ModelError for an id outside the model's vocabulary."""
        require_text(text, "the text")
        pieces = self.split(text) if control else [(text, False)]
        ids = self.encode_pieces(pieces)
        return self._known(self.with_special(ids)) if add_special_tokens else ids

    def with_special(self, ids: Iterable[int]) -> list[int]:
        """`ids` with what the file's post-processor puts around a text."""
        return [*self._prefix, *ids, *self._suffix]

    def encode_pieces(self, pieces: Iterable[tuple[str, bool]]) -> list[int]:
        """Ids of (text, is a control token) pieces, as `split` and `ChatTemplate.pieces` give them. A piece that is not
        marked as a control token is plain text, whatever it holds."""
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
        """(start, stop) of each control token in a text. The leftmost match goes first, then the longest."""
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
        """Cut the text at its control tokens, into (text, is a control token). White space beside a token is removed
        where the token's flags say so (lstrip, rstrip)."""
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
        """A new streaming decoder. `keep`: special ids that are shown nevertheless."""
        skip = self.special.difference(keep) if skip_special_tokens else frozenset()
        return StreamDecoder(self._decoder, self.piece, skip)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of a whole sequence; equals the library's own decode."""
        decoder = self.decoder(skip_special_tokens)
        return decoder.push(ids) + decoder.flush()

    def piece(self, token_id: int) -> tuple[str, bool] | None:
        """(text as the vocabulary has it, is an added token); None for an unknown id."""
        token = self.added.get(token_id)
        if token is not None:
            return token.content, True
        text = self._library.id_to_token(token_id)
        return None if text is None else (text, False)

    def close(self) -> None:
        """Free the library's memory. The tokenizer cannot be used afterwards."""
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


def _inside_word(text: str, start: int, stop: int) -> bool:
    return bool(re.search(r"\w", text[max(start - 1, 0) : start] + text[stop : stop + 1]))
