"""Malicious tokenizer.json files: they are refused with an error of the engine, or run in bounded time."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from py_engine.errors import EngineError, FormatError, InputError, ModelError
from py_engine.host import load_tokenizer_library
from py_engine.inputs.detokenizer import StreamDecoder
from py_engine.inputs.regex_cost import Regex
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.inputs.tokenizer_checks import MAX_GROWTH, check_time
from tests.packaged_tokenizers import NAMES, tokenizer_json

BOUND_S = 2.0  # a busy machine gets more time below
LENIENT = 3
VOCAB = {**{chr(32 + i): i for i in range(95)}, "\n": 95}

# As published, named after the first model that used it.
PUBLISHED = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "qwen3.5": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek-v3 words": "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
    "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "deepseek-v3 digits": r"\p{N}{1,3}",
    "deepseek-v3 han": r"[一-龥぀-ゟ゠-ヿ]+",
    "deepseek-llm letters": r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ]+",
    "deepseek-llm space": r"\s+$",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "falcon": r"[0-9][0-9][0-9]",
    "digits from behind": r"\d{1,3}(?=(?:\d{3})*\b)",
    "clip": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "xlm-roberta": r" {2,}",
    "a loop behind which nothing fails": r"(a+)+",
}
CATASTROPHIC = [
    r"(a+)+b", r"(a+)+$", r"(a|a)*b", r"(a|aa)+$", r"(?:x+x+)+y", r"a*a*a*a*b", r"(?=(a+)+b)a", r"(a*)*b",
    r"(a?b?)*c", r"(\w+\s?)+$", r"^(\w+\s?)*$", r"(.*)*x", r"(a{1,9}){1,9}b", r"(a+){10}b", r"(?:(?:a|b)|[ab])+c",
    r"([a-zA-Z0-9]+)*!", r"(?!(x+x+)+y)z", r"(a?){30}a{30}", r"(?i)(a|A)*b", r"(\p{L}|\p{Lu})*!", r"(.|\n)*x",
    r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(?:(ab)*|(abab)*)*c", r"(?:a|ab|b)*c", r"a**b", r"(?:\x61|a)*b",
    r"([[:alpha:]]+)+!",
    r"(?<n>a+)+b", r"(?>a|a)*(a|a)*b", r"(?:[a-c&&[b-d]]|b)*x",
]  # fmt: skip
UNSUPPORTED = [r"(a)\1+", r"(?<n>a\g<n>?b)", "(", ")", "[", "(?~x)", "x" * 20_000, "(" * 5000, "[" * 5000,
               r"(((a{100}){100}){100}){100}", r"a{99999999999}", "*", "\\", r"\x{FFFFFFFF}", r"\u12"]  # fmt: skip
GARBAGE = [0, "x", [], ["x"], {}, {"type": 5}, {"type": "Sequence"}, {"type": "Nothing"}, {"type": "Replace"},
           {"type": "Split", "pattern": {"Regex": 5}}, {"type": "Sequence", "normalizers": [None, 5]}]  # fmt: skip


def made(**parts: Any) -> bytes:
    """A tokenizer.json."""
    whole: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": VOCAB, "merges": [],
        },
    }  # fmt: skip
    return json.dumps({**whole, **parts}).encode()


def load(data: bytes, **configs: Any) -> Tokenizer:
    return asyncio.run(Tokenizer.load(data, **configs))


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def refused_or_done(data: bytes, text: str = "abc", **configs: Any) -> EngineError | list[int]:
    """The ids, or the engine's error. Anything else fails, and so does a late result."""
    began = time.perf_counter()
    try:
        tokenizer = load(data, **configs)
        ids = tokenizer.encode(text, add_special_tokens=True)
        tokenizer.decode(ids)
        return ids
    except EngineError as error:
        return error
    finally:
        assert time.perf_counter() - began < LENIENT * BOUND_S


@pytest.mark.parametrize("pattern", PUBLISHED.values(), ids=PUBLISHED)
def test_published_patterns_run(pattern: str) -> None:
    tokenizer = load(made(pre_tokenizer=split(pattern)))
    for text in ("Hello there, it's  12345!\n\n x", " " * 3000 + "x", "a" * 3000, "\n" * 3000):
        assert tokenizer.encode(text)


@pytest.mark.parametrize("name", NAMES)
def test_packaged_tokenizers_take_long_texts(name: str) -> None:
    tokenizer = load(tokenizer_json(name).read_bytes())
    for text in ("word " * 10_000, " " * 20_000 + "x", "a" * 20_000 + "!"):
        assert tokenizer.encode(text)


@pytest.mark.parametrize("place", ["normalizer", "pre_tokenizer", "decoder"])
@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_catastrophic_patterns_are_refused_in_every_place(pattern: str, place: str) -> None:
    step = split(pattern) if place == "pre_tokenizer" else replace({"Regex": pattern}, "x")
    sequence = {"type": "Sequence", {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers",
                                     "decoder": "decoders"}[place]: [step]}  # fmt: skip
    for part in (step, sequence):
        with pytest.raises(ModelError, match="regular expression"):
            load(made(**{place: part}))


@pytest.mark.parametrize("pattern", UNSUPPORTED)
def test_what_cannot_be_looked_through_is_refused(pattern: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ModelError, match="is not supported|refused"):
        load(made(pre_tokenizer=split(pattern)))
    assert time.perf_counter() - began < LENIENT * BOUND_S


def test_the_library_itself_would_panic() -> None:
    """The checks prevent this error. Where they do not, it arrives as an error of the engine."""
    library = asyncio.run(load_tokenizer_library(made(pre_tokenizer=split("(a+)+b"))))
    with pytest.raises(FormatError, match="retry-limit"):
        library.encode("a" * 30 + "!c")
    assert library.encode("b") == [VOCAB["b"]], "and it goes on"


def test_a_text_that_takes_the_square_of_its_length_is_refused_before_it_does() -> None:
    tokenizer = load(made(pre_tokenizer=split(r"[a-z]+(?=[!?])")))
    assert tokenizer.encode("a" * 3000)
    for text in ("a" * 400_000, "word " * 30_000 + "a" * 300_000 + " word" * 30_000):
        began = time.perf_counter()
        with pytest.raises(ModelError, match="too long"):
            tokenizer.encode(text)
        assert time.perf_counter() - began < LENIENT * BOUND_S
    assert tokenizer.encode("word " * 30_000)


def test_the_time_of_a_text_is_not_taken_for_its_length() -> None:
    """A cost that grows in step with the text is accepted, however large it is."""
    check_time(lambda text: time.sleep(len(text) * 5e-6), "x" * 40_000)
    with pytest.raises(ModelError):
        check_time(lambda text: time.sleep((len(text) / 4096) ** 2 * 0.05), "x" * 400_000)


@pytest.mark.parametrize("pattern", [{"String": "a"}, {"Regex": "a"}])
def test_replacements_do_not_multiply(pattern: dict[str, str]) -> None:
    doubling = [replace(pattern, "aa")] * 60
    for place, key in (("normalizer", "normalizers"), ("decoder", "decoders")):
        with pytest.raises(ModelError, match="replacing again and again"):
            load(made(**{place: {"type": "Sequence", key: doubling}}))
    with pytest.raises(ModelError, match="steps"):
        load(made(normalizer={"type": "Sequence", "normalizers": [replace(pattern, "a")] * 300}))
    assert 2**9 <= MAX_GROWTH
    few = load(
        made(normalizer={"type": "Sequence", "normalizers": [replace({"String": "a"}, "aa")] * 9})
    )
    assert len(few.encode("a")) == 512
    with pytest.raises(InputError, match="characters"):
        few.encode("a" * 100_000)


@pytest.mark.parametrize(
    "place", ["normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "model"]
)
@pytest.mark.parametrize("value", GARBAGE, ids=lambda value: json.dumps(value)[:40])
def test_garbage_in_any_place_is_an_error_of_the_engine(place: str, value: Any) -> None:
    refused_or_done(made(**{place: value}))


MODELS: dict[str, dict[str, Any]] = {
    "no unk, words": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"},
    "no unk, pieces": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "?", "max_input_chars_per_word": 100,
                       "continuing_subword_prefix": "##"},
    "no unk, bpe": {"type": "BPE", "vocab": {"a": 0}, "unk_token": "?", "merges": []},
    "no unk, unigram": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": None},
    "unk out of range": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 7},
    "empty": {"type": "Unigram", "vocab": [], "unk_id": None},
    "merges of nothing": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]},
    "merges of what is empty": {"type": "BPE", "vocab": {"a": 0, "": 1}, "merges": [["a", ""], ["", "a"]]},
    "merges in a circle": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3, "abab": 4},
                           "merges": [["ab", "ab"], ["ab", "a"], ["a", "b"], ["aba", "b"]]},
    "merges that are none": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a", "a b c", 5, ["a"], None, "x y z"]},
    "very long words": {"type": "WordPiece", "vocab": {"a": 0, "?": 1}, "unk_token": "?",
                        "max_input_chars_per_word": 10**9, "continuing_subword_prefix": "##"},
    "beginnings": {"type": "Unigram", "vocab": [["<unk>", 0.0], *(["a" * n, -1.0] for n in range(1, 2000))],
                   "unk_id": 0},
    "equal ids": {"type": "BPE", "vocab": {"a": 0, "b": 0, "c": 4294967295}, "merges": []},
    "id too large": {"type": "BPE", "vocab": {"a": 2**32, "b": 10**400}, "merges": []},
    "ids that are none": {"type": "BPE", "vocab": {"a": "0", "b": -1, "c": 1.5}, "merges": []},
    "vocab is a number": {"type": "BPE", "vocab": 5, "merges": []},
    "prefix longer than words": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]],
                                 "continuing_subword_prefix": "#" * 100},
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_absurd_models_are_refused_or_run(model: dict[str, Any]) -> None:
    refused_or_done(made(model=model), "ab" * 5000 + "abc")
    refused_or_done(made(model=model), "a" * 20_000)


@pytest.mark.parametrize(
    "charsmap", ["////////", "AAAAAA==", "BAAAAP////8=", "", "%%%", None, 5,
                 base64.b64encode(b"\x04\0\0\0" + b"\xff" * 4 + b"x" * 100_000).decode()])  # fmt: skip
def test_a_damaged_charsmap_is_refused(charsmap: Any) -> None:
    normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    assert isinstance(refused_or_done(made(normalizer=normalizer)), ModelError)


@pytest.mark.parametrize("token_id", [96, 10**12, -1, "5", None, 1.5, True])
def test_ids_that_the_model_has_not_are_refused(token_id: Any) -> None:
    processor = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [token_id], "tokens": ["<s>"]}},
    }  # fmt: skip
    config = {"vocab_size": 96}
    found = refused_or_done(made(post_processor=processor), model_config=config)
    assert isinstance(found, ModelError), found
    processor["special_tokens"] = {}
    assert isinstance(
        refused_or_done(made(post_processor=processor), model_config=config), ModelError
    )
    # A plain word, because a control token in a text is not encoded as one.
    added = [{"id": token_id, "content": "word", "special": False}]
    assert isinstance(
        refused_or_done(made(added_tokens=added), "word", model_config=config), ModelError
    )


def test_truncation_and_padding_of_the_file_change_nothing() -> None:
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 10**9}
    filled = {"strategy": {"Fixed": 10**9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
              "pad_type_id": 0, "pad_token": " "}  # fmt: skip
    assert len(load(made(truncation=cut, padding=filled)).encode("abcdef")) == 6
    assert len(load(made(truncation=5, padding="x")).encode("abcdef")) == 6


def test_a_file_of_100_megabytes_is_refused_at_once() -> None:
    data = made() + b" " * 100_000_000
    began = time.perf_counter()
    with pytest.raises(ModelError, match="bytes"):
        load(data)
    assert time.perf_counter() - began < BOUND_S


def test_many_and_long_added_tokens_are_refused() -> None:
    many = [{"id": 96 + n, "content": f"<{n}>"} for n in range(100_001)]
    assert isinstance(refused_or_done(made(added_tokens=many)), ModelError)
    long = [{"id": 95, "content": "<" * 100_000}]
    assert isinstance(refused_or_done(made(added_tokens=long)), ModelError)


def test_a_decoder_is_bounded_too() -> None:
    strip = {"type": "Strip", "content": "a", "start": 0, "stop": 10**9}
    fuse = {"type": "Fuse"}
    for decoder in (
        strip,
        {"type": "Sequence", "decoders": [fuse, strip]},
        {**strip, "content": "ab"},
    ):
        assert isinstance(refused_or_done(made(decoder=decoder)), ModelError)
    cubic = replace({"Regex": r"a+a+(?=!)"}, "")
    with pytest.raises(ModelError):
        load(made(decoder=cubic))
    long = StreamDecoder(replace({"Regex": "x+"}, "y"), lambda token_id: ("x" * 10_000, False))
    with pytest.raises(ModelError, match="longer than"):
        long.push([1])


def test_looking_through_a_pattern_takes_no_time() -> None:
    for pattern in ("(?:" + "|".join(f"w{n}[a-z]*" for n in range(300)) + ")!", "[a-z]{1,3}" * 150 + "!",
                    "(?:" + "ab?" * 300 + ")*c", "é" * 8000, "(?i)" + "[a-zß-ÿ]" * 900):  # fmt: skip
        began = time.perf_counter()
        try:
            Regex(pattern, "it")
        except ModelError as error:
            assert "not supported" in str(error)
        assert time.perf_counter() - began < LENIENT * BOUND_S, pattern[:40]


@pytest.mark.parametrize(
    "late", [{"pre_tokenizer": split("(a+)+b")}, {"normalizer": replace({"String": "a"}, "b" * 5000)}]
)  # fmt: skip
def test_no_key_behind_the_vocabulary_contradicts_the_head(late: dict[str, Any]) -> None:
    data = made()
    with pytest.raises(FormatError, match="twice"):
        load(data[:-1] + b"," + json.dumps(late)[1:].encode())
    with pytest.raises(FormatError, match="twice"):
        load(data[:-2] + b',"dropout":1.0}}')


def test_a_post_processor_and_names_are_bounded() -> None:
    each = {"type": "BertProcessing", "cls": ["a", 1], "sep": ["a", 1]}
    with pytest.raises(ModelError, match="around a text"):
        load(made(post_processor={"type": "Sequence", "processors": [each] * 2000}))
    with pytest.raises(ModelError, match="names more than"):
        load(made(), config={f"a{n}_token": f"v{n}" for n in range(1000)})


def test_repeated_nothing_is_too_complicated() -> None:
    with pytest.raises(ModelError, match="too complicated"):
        Regex("(?:(?:){100000}){20}b", "it")


@pytest.mark.parametrize("flag", ["rstrip", "single_word"])
def test_many_control_tokens_are_cut_out_in_linear_time(flag: str) -> None:
    token = {"id": 96, "content": "<x>", "special": True, flag: True}
    tokenizer = load(made(added_tokens=[token]))
    began = time.perf_counter()
    assert len(tokenizer.split("<x> a " * 100_000)) == 200_000
    assert time.perf_counter() - began < LENIENT * BOUND_S


def test_a_unigram_entry_is_not_walked_along_without_end() -> None:
    vocab = [["<unk>", 0.0], ["a", -1.0], ["a" * 20_000, -1.0]]
    with pytest.raises(ModelError, match="more than 512"):
        load(made(model={"type": "Unigram", "vocab": vocab, "unk_id": 0}))
