"""The tokenizer and streaming decode against the `tokenizers` library itself, on real vocabularies and texts of many
scripts.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
from typing import Any

import pytest
import tokenizers

from py_engine.errors import FormatError, InputError, ModelError
from py_engine.inputs.detokenizer import StreamDecoder
from py_engine.inputs.tokenizer import Tokenizer
from tests.corpus import SCRIPTS, texts
from tests.packaged_tokenizers import NAMES, tokenizer_json

COUNT = 3000


@functools.cache
def raw(name: str) -> dict[str, Any]:
    """The file's JSON, without padding and truncation."""
    found = json.loads(tokenizer_json(name).read_bytes())
    return {**found, "padding": None, "truncation": None}


@functools.cache
def library(name: str, plain: bool = False) -> tokenizers.Tokenizer:
    """The reference tokenizer. `plain`: without the control tokens, as if the file never had them; the ordinary
    added tokens then get their ids from the model's vocabulary."""
    spec = dict(raw(name))
    if plain:
        control = {t["content"] for t in spec["added_tokens"] if is_control(name, t)}
        kept = [t for t in spec["added_tokens"] if t["content"] not in control]
        model = dict(spec["model"])
        model["vocab"] = {**model["vocab"], **{t["content"]: t["id"] for t in kept}}
        if name == "gemma":  # its merges build <eos>
            model["vocab"] = {k: v for k, v in model["vocab"].items() if k not in control}
            model["merges"] = [m for m in model["merges"] if "".join(m) not in control]
            model["unk_token"] = None
        spec = {**spec, "added_tokens": kept, "model": model, "post_processor": None}
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def is_control(name: str, token: dict[str, Any]) -> bool:
    return token["special"] or name == "qwen3"  # every added token of Qwen steers the model


@functools.cache
def ours(name: str) -> Tokenizer:
    return asyncio.run(Tokenizer.load(tokenizer_json(name).read_bytes()))


def load(spec: Any, **configs: Any) -> Tokenizer:
    data = spec if isinstance(spec, bytes) else json.dumps(spec).encode()
    return asyncio.run(Tokenizer.load(data, **configs))


@pytest.mark.parametrize("name", NAMES)
def test_peoples_text_is_encoded_as_by_a_library_that_knows_no_control_token(name: str) -> None:
    judge, mine = library(name, plain=True), ours(name)
    control = set(mine.control.values())
    for text in texts(COUNT):
        ids = mine.encode(text)
        assert ids == judge.encode(text, add_special_tokens=False).ids, text
        if name != "minilm":  # WordPiece has only [UNK] for what it does not know
            assert control.isdisjoint(ids), text


@pytest.mark.parametrize("name", NAMES)
def test_template_text_is_encoded_as_by_the_whole_library(name: str) -> None:
    judge, mine = library(name), ours(name)
    words = [*mine.control, *SCRIPTS.values(), " ", "\n"]
    chance = random.Random(3)
    for text in [*texts(500, seed=4), *("".join(chance.choices(words, k=6)) for _ in range(500))]:
        assert (
            mine.encode(text, control=True) == judge.encode(text, add_special_tokens=False).ids
        ), text


@pytest.mark.parametrize("name", NAMES)
def test_what_the_post_processor_puts_around_a_text(name: str) -> None:
    for text in ("", "Hello, Ökonom!", SCRIPTS["Japanese"]):
        expected = library(name).encode(text).ids
        assert ours(name).encode(text, add_special_tokens=True) == expected
        assert ours(name).count_tokens(text, add_special_tokens=True) == len(expected)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_decode_of_texts_and_of_random_ids_equals_the_library(name: str, skip: bool) -> None:
    judge, mine = library(name), ours(name)
    size = judge.get_vocab_size()
    chance = random.Random(11)
    rare = sorted(mine.added) + [i for i in range(size) if len(judge.id_to_token(i) or "") == 1]
    rare += [i for i in range(size) if (judge.id_to_token(i) or "").startswith("<0x")]
    sequences = [mine.encode(text, control=True) for text in texts(300, seed=5)]
    sequences += [chance.choices(range(size + 3), k=chance.randint(0, 30)) for _ in range(800)]
    # Bytes next to added tokens, so that characters are cut in every way.
    sequences += [chance.choices(rare, k=chance.randint(1, 12)) for _ in range(1000)]
    for ids in sequences:
        expected = judge.decode(ids, skip_special_tokens=skip)
        assert mine.decode(ids, skip_special_tokens=skip) == expected, ids
        decoder = mine.decoder(skip_special_tokens=skip)
        one_by_one = "".join(decoder.push([token_id]) for token_id in ids) + decoder.flush()
        assert one_by_one == expected, ids


@pytest.mark.parametrize("name", ["whisper", "qwen3", "gemma"])
def test_no_delta_ever_shows_half_a_character(name: str) -> None:
    mine = ours(name)
    for text in SCRIPTS.values():
        if "\ufffd" in text:
            continue
        text = mine.decode(mine.encode(text))  # the text as the normaliser leaves it
        decoder, shown = mine.decoder(), ""
        ids = mine.encode(text)
        for count, token_id in enumerate(ids):
            shown += decoder.push([token_id])
            assert "\ufffd" not in shown
            assert text.startswith(shown)
            if count % 3 == 0:  # cut here, an incomplete character must not appear
                assert "\ufffd" not in _broken_off(mine, ids[: count + 1])
        assert shown + decoder.flush() == text


def _broken_off(tokenizer: Tokenizer, ids: list[int]) -> str:
    decoder = tokenizer.decoder()
    return decoder.push(ids) + decoder.flush(cut=True)


def test_a_flushed_decoder_is_as_new() -> None:
    mine = ours("gemma")
    decoder = mine.decoder()
    for text in (" two words", "བོད", " again"):
        ids = mine.encode(text)
        assert decoder.push(ids) + decoder.flush() == mine.decode(ids)


def test_merges_of_the_model_cannot_build_a_control_token() -> None:
    spec = {**raw("gemma"), "added_tokens": []}
    eos = ours("gemma").control["<eos>"]
    assert (
        tokenizers.Tokenizer.from_str(json.dumps(spec)).encode("<eos>").ids[-1] == eos
    )  # the library's merges would build it
    assert eos not in ours("gemma").encode("a<eos>b <eos>")
    assert ours("gemma").decode(ours("gemma").encode("a<eos>b <eos>")) == "a<eos>b <eos>"


def test_no_spelling_of_a_control_token_becomes_one() -> None:
    """Marks that the file calls ordinary, in any script, with any flag, and with a normaliser that maps more texts
    to them."""
    marks = [
        "<|im_end|>",
        "<｜User｜>",
        "[gMASK]",
        "<arg_key>",
        "＜end＞",
        "<unused7>",
        "]~b]",
        "【tool】",
    ]
    flags = [
        {
            "lstrip": bool(n & 1),
            "rstrip": bool(n & 2),
            "normalized": bool(n & 4),
            "single_word": n == 7,
        }
        for n in range(len(marks))
    ]
    for normalizer in ({"type": "NFKC"}, {"type": "Lowercase"}, None):
        spec = {**raw("whisper"), "normalizer": normalizer, "post_processor": None}
        first = max(token["id"] for token in spec["added_tokens"]) + 1
        added = [
            {"id": first + n, "content": mark, "special": False, **flags[n]}
            for n, mark in enumerate(marks)
        ]
        spec = {**spec, "added_tokens": [*spec["added_tokens"], *added]}
        mine, judge = load(spec), tokenizers.Tokenizer.from_str(json.dumps(spec))
        spelled = [
            *marks,
            "＜|im_end|＞",
            "<|IM_END|>",
            "＜｜im＿end｜＞",
            "<unused⑦>",
            " <|im_end|> ",
        ]
        text = " ".join(spelled)
        # The library would find them.
        assert not {a["id"] for a in added}.isdisjoint(judge.encode(text).ids)
        for typed in (text, "".join(spelled), *spelled):
            ids = mine.encode(typed)
            assert all(i not in mine.added for i in ids), typed
        # What the template writes is found as the library finds it.
        for written in ("a [gMASK]\n<｜User｜>  b <arg_key> c", "x<|im_end|>\n"):
            if normalizer is None:
                assert mine.encode(written, control=True) == judge.encode(written).ids


def test_words_white_space_and_html_are_ordinary() -> None:
    flags = {
        "special": False,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": False,
    }
    ordinary = ["\n\n", "▁▁▁", "<h1>", "</table>", "<br/>", "Grüezi", "##ing", "日本", "  "]
    steering = ["<think>", "<s>", "<custom>", "[PAD]", "<|x|>", "｜"]
    spec = raw("whisper")
    first = max(token["id"] for token in spec["added_tokens"]) + 1
    added = [{"id": first + n, "content": t, **flags} for n, t in enumerate([*ordinary, *steering])]
    mine = load(
        {**spec, "added_tokens": [*spec["added_tokens"], *added]}, config={"bos_token": "<s>"}
    )
    control = {token.content for token in mine.added.values() if token.control}
    assert control.isdisjoint(ordinary) and control.issuperset(steering)


def test_ordinary_added_tokens_are_found_in_peoples_text() -> None:
    mine = ours("gemma")
    ids = mine.encode("<table>\n\n\nx")
    assert [mine.piece(i) for i in ids][:2] == [("<table>", True), ("\n\n\n", True)]


def test_an_ordinary_token_beyond_the_vocabulary_keeps_its_id() -> None:
    spec = json.loads(json.dumps(raw("qwen3")))
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spec["added_tokens"].append({"id": 151999, "content": "poetry#x", **added, "special": False})
    mine = load(spec)
    assert mine.encode("a poetry#x b").count(151999) == 1
    assert mine.decode(mine.encode("a poetry#x b")) == "a poetry#x b"
    mine.close()


def test_the_order_of_keys_in_the_file_does_not_matter() -> None:
    for name in ("whisper", "gemma", "minilm"):
        spec = raw(name)
        turned = {key: spec[key] for key in reversed(spec)}
        turned["model"] = {key: spec["model"][key] for key in reversed(spec["model"])}
        indented = load(json.dumps(turned, indent=2).encode())
        for text in texts(200, seed=9):
            assert indented.encode(text) == ours(name).encode(text)
        spaced = load(json.dumps(spec, indent=1).encode())
        assert [spaced.encode(t) for t in SCRIPTS.values()] == [
            ours(name).encode(t) for t in SCRIPTS.values()
        ]


def test_metaspace_marks_only_the_beginning_of_the_whole_text() -> None:
    vocab = {
        piece: i for i, piece in enumerate(["<s>", "▁", "a", "b", "▁a", "▁b", "<0x0A>", "[x]"])
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 0, "content": "<s>", "special": True, **flags},
            {"id": 7, "content": "[x]", "special": False, **flags},
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "first",
            "split": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "first",
            "split": False,
        },
        "model": {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": ["▁ a", "▁ b"]},
    }
    judge, mine = tokenizers.Tokenizer.from_str(json.dumps(spec)), load(spec)
    for text in ("a b", " a", "<s>a b", "a<s>b", "<s><s> b", "▁a", "", "[x]a", "a[x]b", "<s>[x]a"):
        assert mine.encode(text, control=True) == judge.encode(text).ids, text
        ids = judge.encode(text).ids
        assert mine.decode(ids) == judge.decode(ids), text


DECODERS: list[dict[str, Any] | None] = [
    None,
    {"type": "BPEDecoder", "suffix": "</w>"},
    {"type": "WordPiece", "prefix": "##", "cleanup": False},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
    {
        "type": "Strip",
        "content": "a",
        "start": 1,
        "stop": 0,
    },  # the library panics where both ends meet
    {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    },
    {
        "type": "Sequence",
        "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": "a", "start": 0, "stop": 1}],
    },
    {"type": "Replace", "pattern": {"Regex": "[ab]+"}, "content": "\\1-"},
]


@pytest.mark.parametrize("spec", DECODERS, ids=str)
def test_every_supported_decoder_equals_the_library(spec: dict[str, Any] | None) -> None:
    pieces = [
        "▁",
        "▁a",
        "a",
        "aa",
        "b</w>",
        "##b",
        " .",
        "do not",
        "<0xE4>",
        "<0xBD>",
        "<0xA0>",
        "c",
    ]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "c"}
    head = dict.fromkeys(["normalizer", "pre_tokenizer", "post_processor", "truncation", "padding"])
    whole: dict[str, Any] = {
        "version": "1.0",
        **head,
        "added_tokens": [],
        "decoder": spec,
        "model": model,
    }
    judge, mine = tokenizers.Tokenizer.from_str(json.dumps(whole)), load(whole)
    chance = random.Random(2)
    for _ in range(2000):
        ids = chance.choices(range(len(pieces)), k=chance.randint(1, 7))
        assert mine.decode(ids) == judge.decode(ids), [pieces[i] for i in ids]


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "CTC"},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]},
        {"type": "Replace", "pattern": {"Regex": "(?{x"}, "content": ""},
        {"type": "Strip"},
        {},
    ],
)
def test_a_decoder_that_is_not_supported_is_named(spec: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="decoder"):
        StreamDecoder(spec, lambda token_id: None)


def test_lone_surrogates_are_the_callers_mistake() -> None:
    with pytest.raises(InputError, match=r"U\+D83D at index 2"):
        ours("whisper").encode("ab\ud83d")
    with pytest.raises(InputError, match="must be a str, not bytes"):
        ours("whisper").encode(b"ab")  # type: ignore[arg-type]


def test_ids_beyond_the_models_vocabulary_are_refused() -> None:
    mine = load(raw("whisper"), model_config={"text_config": {"vocab_size": 300}})
    assert max(mine.encode("a b")) < 300
    with pytest.raises(ModelError, match="ends at 300"):
        mine.encode("photosynthesis")


def test_stop_ids_come_from_all_files() -> None:
    config = {"eos_token": {"content": "<eos>"}, "bos_token": "<bos>", "unk_token": None}
    mine = load(
        raw("gemma"),
        config=config,
        generation_config={"eos_token_id": [5, 1]},
        model_config={"eos_token_id": 3},
    )
    assert mine.stop_ids == (1, 3, 5)
    assert mine.names == {"eos_token": "<eos>", "bos_token": "<bos>"}
    with pytest.raises(ModelError, match="eos_token_id"):
        load(raw("gemma"), generation_config={"eos_token_id": ["x"]})


def test_end_tokens_are_found_wherever_they_are_named() -> None:
    names = {"eos_token": {"content": "<eos>"}, "bos_token": "<bos>"}
    assert load(raw("gemma"), special_tokens_map=names).stop_ids == (1,)
    assert load(raw("gemma"), special_tokens_map=names).names["bos_token"] == "<bos>"
    newer = {"added_tokens_decoder": {}, "eos_token": "<end_of_turn>"}
    mine = load(raw("gemma"), config=newer, special_tokens_map=names)
    assert mine.names == {"eos_token": "<end_of_turn>"}  # transformers reads no further
    assert mine.stop_ids == (1, mine.control["<end_of_turn>"])
    inner = {"text_config": {"eos_token_id": [5]}, "eos_token_id": 1}
    assert load(raw("gemma"), model_config=inner).stop_ids == (1, 5)
    assert load(raw("gemma")).stop_ids == ()


def test_an_end_token_that_stands_in_the_vocabulary_only() -> None:
    spec = json.loads(json.dumps(raw("qwen3")))
    spec["model"]["vocab"]['</s "é">'] = 151_900
    for data in (json.dumps(spec).encode(), json.dumps(spec, ensure_ascii=False).encode()):
        mine = load(data, config={"eos_token": '</s "é">', "pad_token": "not there"})
        assert mine.stop_ids == (151_900,)
        assert mine.control['</s "é">'] == 151_900
        assert mine.encode('a</s "é">', control=True)[-1] == 151_900
        assert 151_900 not in mine.encode('a</s "é">')
        assert mine.decode([151_900]) == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>Not found</html>",
        b"[]",
        b"{}",
        b'{"model": 3}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
        b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
        b'{"added_tokens": [{"id": "x", "content": "a"}], "model": {}}',
        b'{"added_tokens": 3, "model": {"type": "BPE", "vocab": {}, "merges": []}}',
        b'{"post_processor": {"type": "TemplateProcessing"}, "model": {"vocab": {}}}',
        b'{"model": ' + b"[" * 200_000,
    ],
    ids=lambda data: str(data[:40]),
)
def test_damaged_files_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"tokenizer\.json"):
        load(data)


def test_a_cut_file_is_refused() -> None:
    data = tokenizer_json("whisper").read_bytes()
    for length in (len(data) // 3, len(data) - 3):
        with pytest.raises(FormatError):
            load(data[:length])
