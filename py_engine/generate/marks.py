"""The marks that a model writes around its thinking, its answer and its tool calls, seen in its tokenizer and template.

Where both marks of a pair are added tokens they count only as those ids: the same letters spelled out are text.
Otherwise their text counts; and that of tool calls always does where tools are offered (Qwen2.5-Coder-0.5B was seen to
spell the marks that it has tokens for).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from py_engine.generate.tools import (
    FUNCTION_CALLS,
    JSON_CALLS,
    MISTRAL_CALLS,
    PYTHON_CALLS,
    TAG_CALLS,
    ToolFormat,
    json_calls,
)
from py_engine.inputs.chat_template import CallWriter
from py_engine.inputs.tokenizer import Tokenizer

Pair = tuple[str, str]

THINK: Pair = ("<think>", "</think>")
THINKING: tuple[Pair, ...] = (
    THINK,
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral, Ministral 3 Reasoning
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command R7B, Command A
)
# Marks that some thinking models put around the answer itself.
ANSWERS: tuple[Pair, ...] = (
    ("<answer>", "</answer>"),  # Hunyuan
    ("<response>", "</response>"),  # Granite 3.2, 3.3
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),  # Command R7B, Command A
    ("<|START_TEXT|>", "<|END_TEXT|>"),
)

# Formats that their marks identify. <tool_call> identifies none: two syntaxes are used inside it.
_BY_MARKS = (
    TAG_CALLS.between("<seed:tool_call>", "</seed:tool_call>"),
    FUNCTION_CALLS,
    json_calls("<|START_ACTION|>", "<|END_ACTION|>", name_key="tool_name", arguments_key="parameters"),
    json_calls("<TOOLCALL>", "</TOOLCALL>"),  # Llama Nemotron
    json_calls("<toolcall>", "</toolcall>"),  # Nemotron-Mini
    json_calls("<tool_calls>", "</tool_calls>"),  # Hunyuan
    json_calls("<|tool_call|>", "<|/tool_call|>"),  # Phi-4-mini
    json_calls("<|tool_call|>", ""),  # Granite 3
    MISTRAL_CALLS,
    PYTHON_CALLS,
)  # fmt: skip


@dataclass(frozen=True)
class Markup:
    """The marks of a model. `ids`: those that are tokens, by id; the others are found in the text."""

    thinks: bool = False
    calls: ToolFormat | None = None
    ids: Mapping[int, str] = field(default_factory=dict)
    think: Pair = THINK
    answer: Pair | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer, template: str) -> Markup:
        """The marks of a model with this chat template (its Jinja2 source, "" for none)."""
        added = {token.content: token.id for token in tokenizer.added.values()}

        def ids(*marks: str) -> dict[int, str]:
            return {added[m]: m for m in marks} if all(m in added for m in marks) else {}

        calls = _format(template, added)
        spelled = (pair for pair in THINKING if pair[1] in template)
        think = next(spelled, None) or next((pair for pair in THINKING if ids(*pair)), None)
        answer = next((pair for pair in ANSWERS if pair[1] in template), None)
        calling = ids(*calls.ends) if calls else {}
        if calls and calling:
            calling |= {added[mark]: mark for mark in calls.inner if mark in added}
        return cls(
            think is not None,
            calls,
            {**ids(*(think or ())), **calling},
            think or THINK,
            answer if think else None,
        )

    @property
    def write_calls(self) -> CallWriter | None:
        """How calls are put into an assistant's content; None for a model without them."""
        return self.calls.pieces if self.calls else None

    def begins_thinking(self, prompt: Sequence[tuple[str, bool]]) -> bool:
        """Whether a prompt, in the pieces of `ChatTemplate.pieces`, ends with the mark that opens thinking."""
        opening = self.think[0]
        for text, control in reversed(prompt):
            if control or text.strip():
                wanted = opening in self.ids.values()
                found = text == opening if control else text.rstrip().endswith(opening)
                return self.thinks and control == wanted and found
        return False


def _format(template: str, added: Mapping[str, int]) -> ToolFormat | None:
    """The format that the template shows, else one that the tokenizer has tokens for; None without a template."""
    shown = (calls for calls in _BY_MARKS if all(mark in template for mark in calls.ends))
    if calls := next(shown, None):
        return calls
    if "<tool_call>" in template:
        return TAG_CALLS if "<function=" in template else JSON_CALLS
    known = (c for c in _BY_MARKS if all(mark in template or mark in added for mark in c.ends))
    return next(known, None) if template else None
