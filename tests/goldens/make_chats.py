"""Writes tests/goldens/chats.json: conversations as transformers renders them with the templates of
tests/chat_styles.py.

Run with a Python that has transformers (its version is stored):

    python tests/goldens/make_chats.py

The engine takes no part in this. Each text is stored once, in "texts". "chats" holds the text's index, by style, case,
reading (tests/chat_shapes.py) and thinking switch; None means that transformers raises.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import transformers
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.chat_shapes import SWITCHES, cases, readings  # noqa: E402
from tests.chat_styles import STYLES, Style  # noqa: E402


def rendered(style: Style, talk: Any, tools: Any, **more: Any) -> str | None:
    """The text that apply_chat_template gives. Keys without a value are left out, unless the reading is an explicit
    None."""
    try:
        texts, _ = render_jinja_template(
            [talk], tools=tools, chat_template=style.template, add_generation_prompt=True, **style.names, **more
        )  # fmt: skip
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("jinja2", "builtins"):
            raise
        return None
    return str(texts[0])


def without_none(talk: Any) -> Any:
    return [{key: value for key, value in message.items() if value is not None} for message in talk]


def main() -> None:
    places: dict[str, int] = {}
    chats: dict[str, Any] = {}
    for name, style in STYLES.items():
        for case, (talk, tools) in cases().items():
            for reading, said in readings(talk).items():
                for kind, form in ((reading, without_none(said)), (f"{reading}, None", said)):
                    if kind != reading and form == without_none(said):
                        continue
                    for switch, more in SWITCHES.items():
                        named = dict(zip([style.switch], more.values(), strict=False))
                        text = rendered(style, form, tools, **named)
                        place = None if text is None else places.setdefault(text, len(places))
                        by_case = chats.setdefault(name, {}).setdefault(case, {})
                        by_case.setdefault(kind, {})[switch] = place
    made = {"transformers": transformers.__version__, "texts": list(places), "chats": chats}
    (HERE / "chats.json").write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
