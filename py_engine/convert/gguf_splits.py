"""How a byte-level vocabulary's text is split before merging, by the name that GGUF gives the rule
(`tokenizer.ggml.pre`).

Names that llama.cpp (src/llama-vocab.cpp) gives the same rule stand in ALIASES. The expressions are those of
the models' own tokenizer.json, as llama.cpp quotes them. Rules that are code
there (kimi-k2, afmoe) are not supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """Text is brought to NFC if `nfc`, cut into single digits if `digits`, then split by each of `patterns` in turn (by
    GPT-2's, if there is none). `whole_words`: a part that is a token is taken as it is, whatever the merges say. `bos`:
    a text begins with the bos token where the file does not say."""

    patterns: tuple[str, ...] = ()
    digits: bool = False
    nfc: bool = False
    whole_words: bool = False
    bos: bool = False


_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_LLAMA3 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN35 = (
    _ENDINGS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(ending: str, numbers: str) -> str:
    """Words by case: Ab, aB; each with an English ending where there is one."""
    first = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{ending}"
    second = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{ending}"
    return f"{first}|{second}|{numbers}{_REST_SLASH}"


_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_SEED = (
    _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLITS: Mapping[str, Split] = {
    "qwen2": Split((_QWEN2,), nfc=True),
    "stablelm2": Split((_QWEN2,)),
    "qwen35": Split((_QWEN35,), nfc=True),
    "llama-bpe": Split((_LLAMA3,), whole_words=True, bos=True),
    "glm4": Split((_LLAMA3,)),
    "tekken": Split((_cased("", r"\p{N}"),), whole_words=True, bos=True),
    "gpt-4o": Split((_cased(_ENDINGS + "?", r"\p{N}{1,3}"),)),
    "deepseek-v3": Split(_DEEPSEEK3),
    "seed-coder": Split((_SEED,)),
    "gpt-2": Split(),
    "smollm": Split(digits=True),
    "command-r": Split(digits=True, nfc=True),
}
ALIASES: Mapping[str, str] = {
    "deepseek-r1-qwen": "qwen2",
    "kormo": "qwen2",
    "f2llmv2": "qwen2",
    "megrez": "qwen2",
    "hunyuan": "stablelm2",
    "grok-2": "stablelm2",
    "solar-open": "stablelm2",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe",
    "falcon-h1": "llama-bpe",
    "pixtral": "llama-bpe",
    "midm-2.0": "llama-bpe",
    "lfm2": "llama-bpe",
    "chatglm-bpe": "glm4",
    "dbrx": "glm4",
    "smaug-bpe": "glm4",
    "llama4": "gpt-4o",
    "kanana2": "gpt-4o",
    "hunyuan-dense": "deepseek-v3",
    "joyai-llm": "deepseek-v3",
    "phi-2": "gpt-2",
    "olmo": "gpt-2",
    "mpt": "gpt-2",
    "exaone4": "gpt-2",
    "trillion": "gpt-2",
    "gigachat": "gpt-2",
    "a.x-4.0": "gpt-2",
    "mellum": "gpt-2",
    "granite-docling": "gpt-2",
    "starcoder": "smollm",
    "refact": "smollm",
    "codeshell": "smollm",
    "exaone": "smollm",
    "minerva-7b": "smollm",
    "mellum2": "smollm",
}
