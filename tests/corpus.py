"""Texts to compare tokenizers with: many scripts, emoji, controls, code, control tokens, random code points.

    python -m tests.corpus OUT.json     writes [{"name", "tokenizer": path, "texts": [...], "ids": [[...], ...]}, ...]

The ids are those that the engine gives in CPython. tests_e2e compares other hosts with them.
"""

from __future__ import annotations

import random

SCRIPTS = {  # a short text in each script
    "English": "The quick brown fox isn't 1,234.5 km away; they'll've \"jumped\" — over it!",
    "German": "Übergrößenträger müssen für 3 € die Straße fegen.",
    "French": "Où est l’œuvre ? « Ça va », dit-elle à Noël.",
    "Vietnamese": "Tiếng Việt có sáu thanh điệu: ngang, huyền, sắc, hỏi, ngã, nặng.",
    "Vietnamese, decomposed": "Tiê\u0301ng Viê\u0323t",
    "Russian": "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "Hebrew": "דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם",
    "Arabic": "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ١٢٣. السَّلَامُ",
    "Persian": "می\u200cخواهم به خانه بروم",
    "Hindi": "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश। १२३",
    "Bengali": "আমি বাংলায় গান গাই",
    "Tamil": "நான் தமிழ் பேசுகிறேன்",
    "Thai": "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ๑๒๓",
    "Burmese": "မြန်မာဘာသာစကား",
    "Khmer": "ភាសាខ្មែរ",
    "Tibetan": "བོད་ཡིག",
    "Georgian": "საქართველოს დედაქალაქი",
    "Armenian": "Բոլոր մարդիկ ծնվում են ազատ",
    "Amharic": "ሁሉም ሰዎች በነፃነት ይወለዳሉ",
    "Chinese": "我能吞下玻璃而不伤身体。一二三，繁體中文：龍龜",
    "Japanese": "いろはにほへと　ちりぬるを。カタカナ、ﾊﾝｶｸ、漢字１２３",
    "Korean": "다람쥐 헌 쳇바퀴에 타고파. \u1112\u1161\u11ab\u1100\u1173\u11af",
    "Cherokee": "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
    "Cuneiform": "𒀀𒁀𒂀",
    "Mathematics": "∀ε>0 ∃δ: |x−a|<δ ⇒ ∑ᵢ₌₁ⁿ xᵢ² ≤ 𝔼[𝑋]·½ ⅓ ²³ Ⅷ",
    "Emoji": "👩🏽‍🚀👨‍👩‍👧‍👦🇨🇭🏴󠁧󠁢󠁥󠁮󠁧󠁿❤️‍🔥☠︎ 🙂🫠1️⃣",
    "Zalgo": "Z̷͖̤̐̕a̵̢̛͎l̶̰̈́g̷̜̈́o̴",
    "Code": 'def f(x: int) -> str:\n\treturn f"{x!r:>10}"  # ünïcode\n\n\n    if a<b>c and x**2 != 3e-7:\n',
    "JSON": '{"a": [1, 2.50, null], "b\\n": "\\u00e9"}\r\n',
    "HTML": "<table>\n<tr><td>1</td></tr>\n</table> &amp; <br/> <!-- x -->",
    "Control tokens": "<|im_start|>system\nbe evil<|im_end|> <think>x</think> <bos><eos></s>[MASK] [CLS]",
    "Their fragments": "<|im_ end|> <|im_end| > <<|im_end|>> <|IM_END|> <|endoftext|",
    "White space": "  a   b\t\tc \n \n\n  d\r\n\r\ne\u00a0f\u2003g\u3000h\u200bi \v\f\x85\u2028  ",
    "Controls": "a\x00b\x01c\x1b[0m\x7f\x80\ufeff\ufffd\ufffe\uffff\U0010ffff",
    "Marks of tokenizers": "▁a ▁▁b Ġc Ċ <0x0A> <0xE2><0x82> ##ing </w>",
    "Digits": "0 00 000 1234567890 12.34 1_000 ٣٤ ４５ ①②",
    "One character": "a",
    "Nothing": "",
}
_BLOCKS = [
    (0x20, 0x7F), (0xA0, 0x250), (0x250, 0x370), (0x370, 0x530), (0x530, 0x780), (0x900, 0xE00),
    (0xE00, 0x1200), (0x1200, 0x1800), (0x1E00, 0x2000), (0x2000, 0x2C00), (0x3000, 0x3100),
    (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xE000, 0xE100), (0xF900, 0x10000), (0x10000, 0x12000),
    (0x1D400, 0x1D800), (0x1F000, 0x1FB00), (0x20000, 0x20100),
]  # fmt: skip
_WORDS = " ".join(SCRIPTS.values()).split(" ")


def texts(count: int = 3000, seed: int = 7) -> list[str]:
    """`count` texts without lone surrogates: first the texts of SCRIPTS, then random mixtures."""
    chance = random.Random(seed)
    made = list(SCRIPTS.values())
    while len(made) < count:
        kind = chance.randrange(4)
        if kind == 0:  # words of all scripts on one line
            joint = chance.choice([" ", "", "  ", "\n", ", "])
            made.append(joint.join(chance.choices(_WORDS, k=chance.randint(1, 12))))
        elif kind == 1:  # characters of one block
            low, high = chance.choice(_BLOCKS)
            made.append("".join(_char(chance, low, high) for _ in range(chance.randint(1, 24))))
        elif kind == 2:  # any characters
            made.append("".join(_char(chance, *chance.choice(_BLOCKS)) for _ in range(12)))
        else:  # a text cut at a random place, its parts swapped
            text = chance.choice(list(SCRIPTS.values()))
            at = chance.randint(0, len(text))
            made.append(text[at:] + text[:at])
    return made[:count]


def _char(chance: random.Random, low: int, high: int) -> str:
    return chr(chance.randrange(low, high))


if __name__ == "__main__":
    import asyncio
    import json
    import sys
    from pathlib import Path

    from py_engine.inputs.tokenizer import Tokenizer
    from tests.packaged_tokenizers import NAMES, tokenizer_json

    async def write(out: Path) -> None:
        sets = []
        for name in NAMES:
            path = tokenizer_json(name)
            tokenizer = await Tokenizer.load(path.read_bytes())
            given = texts()
            ids = [tokenizer.encode(text) for text in given]
            sets.append({"name": name, "tokenizer": str(path), "texts": given, "ids": ids})
        out.write_text(json.dumps(sets))

    asyncio.run(write(Path(sys.argv[1])))
