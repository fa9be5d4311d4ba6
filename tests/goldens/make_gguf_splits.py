"""Writes gguf_splits.json: how another regex engine splits texts of many scripts by GGUF's rules.

    python tests/goldens/make_gguf_splits.py     (the `regex` package)

The rules are written as llama.cpp runs them (src/llama-vocab.cpp), one expression after another, not as tokenizer.json
has them.
"""

import json
from pathlib import Path

import regex

TEXTS = [
    "Hello, world! I'll DON'T we've 12345 x86_64 3.14159",
    "  two spaces\n\n\tTab\r\n   end  ", "été Ünïcode naïve e\u0301 Straße",
    "Привет, мир! 2024 год", "漢字かなカナ 123年 한국어 텍스트", "हिन्दी में १२३ ไทย ภาษา",
    "שלום العربية ٣٤٥ 😀👍🏽 ¿qué?", "def f(x):\n    return x**2  # camelCase HTTPServer\n", "a//b /path/to/file ///\n",
]  # fmt: skip
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
END = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {
    "stablelm2": [END + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL],
    "llama-bpe": [END + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL],
    "glm4": [END + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL],
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "seed-coder": [
        END + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
    "deepseek-v3": [
        r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ],
}  # fmt: skip


def split(text: str, expressions: list[str]) -> list[str]:
    """The parts of a text. Each part is split again by the next expression; the text between two matches is a part
    too."""
    parts = [text]
    for expression in expressions:
        again: list[str] = []
        for part in parts:
            at = 0
            for match in regex.finditer(expression, part):
                again += [part[at : match.start()], match.group()]
                at = match.end()
            again.append(part[at:])
        parts = [part for part in again if part]
    return parts


if __name__ == "__main__":
    made = {name: [split(text, rule) for text in TEXTS] for name, rule in RULES.items()}
    path = Path(__file__).parent / "gguf_splits.json"
    lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in made.items()]
    path.write_text(
        '{"texts": ' + json.dumps(TEXTS, ensure_ascii=False) + ",\n" + ",\n".join(lines) + "\n}\n"
    )
