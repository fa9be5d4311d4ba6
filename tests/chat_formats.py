"""Chat formats of the families, for tests: a byte tokenizer with the family's control tokens, and a template that
writes turns, thinking and tool calls as the family's own template does. Sources: the published model cards and
templates.
"""

from __future__ import annotations

import asyncio
import functools
import json
from dataclasses import dataclass
from pathlib import Path

from py_engine.generate.marks import Markup
from py_engine.inputs.byte_tokenizer import byte_tokenizer_json
from py_engine.inputs.chat_template import ChatTemplate
from py_engine.inputs.tokenizer import Tokenizer

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
STEERING = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
THINKING = ["<think>", "</think>"]
LFM = [
    *("<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|tool_list_start|>", "<|tool_list_end|>"),
    *(
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        "<|tool_response_start|>",
        "<|tool_response_end|>",
    ),
]

# Tool results stand in a user turn. Consecutive results share one turn.
_QWEN_RESULTS = """\
{%- macro result(messages, i) -%}
    {%- if i == 0 or messages[i - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
    {{- '\\n<tool_response>\\n' + messages[i].content + '\\n</tool_response>' }}
    {%- if i == messages | length - 1 or messages[i + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{% endif %}
{%- endmacro -%}
"""
# Thinking before the last user question is dropped. Thinking after it, in a tool loop, is kept.
_LAST_QUERY = """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
"""
_QWEN_TURNS = """\
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- result(messages, loop.index0) }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and message.reasoning_content %}
            {{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if message.content or not loop.first %}{{- '\\n' }}{% endif %}
            {{- written(call.function) }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif not (loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""
_TOOL_LIST = """\
{{- '# Tools\\n\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{% endfor %}
{{- '\\n</tools>\\n' }}
"""
QWEN3 = (
    _QWEN_RESULTS
    + """\
{%- macro written(call) -%}
    {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
    {{- call.arguments if call.arguments is string else call.arguments | tojson }}
    {{- '}\\n</tool_call>' }}
{%- endmacro -%}
"""
    + _LAST_QUERY
    + "{%- if tools %}{{- '<|im_start|>system\\n' }}"
    + _TOOL_LIST
    + """{{- 'Return JSON within <tool_call></tool_call>.<|im_end|>\\n' }}{% endif %}
{%- if messages[0].role == 'system' and not tools %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
"""
    + _QWEN_TURNS
    + """\
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""
)
# Thinks only when asked to, as the small sizes do. Writes lists and objects as JSON, everything else as Jinja prints
# it.
QWEN35 = (
    _QWEN_RESULTS
    + """\
{%- macro written(call) -%}
    {{- '<tool_call>\\n<function=' + call.name + '>\\n' }}
    {%- for key, value in call.arguments | items %}
        {{- '<parameter=' + key + '>\\n' }}
        {{- value | tojson if value is mapping or (value is sequence and value is not string) else value | string }}
        {{- '\\n</parameter>\\n' }}
    {%- endfor %}
    {{- '</function>\\n</tool_call>' }}
{%- endmacro -%}
"""
    + _LAST_QUERY
    + "{%- if tools %}{{- '<|im_start|>system\\n' }}"
    + _TOOL_LIST
    + """{{- '<tool_call>\\n<function=example>\\n</function>\\n</tool_call>' }}
{%- if messages[0].role == 'system' %}{{- '\\n\\n' + messages[0].content }}{% endif %}
{{- '<|im_end|>\\n' }}{% endif %}
"""
    + _QWEN_TURNS
    + """\
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is true %}
        {{- '<think>\\n' }}
    {%- else %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
)
# Does not know tool_calls: passes an assistant's content through unchanged.
LFM2 = """\
{{- bos_token -}}
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- if tools -%}
    {%- set system = system ~ '\\nList of tools: <|tool_list_start|>' ~ tools | tojson ~ '<|tool_list_end|>' -%}
{%- endif -%}
{%- if system %}{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}{% endif -%}
{%- for message in messages if message.role != 'system' -%}
    {%- set content = message.content -%}
    {%- if message.role == 'tool' -%}
        {%- set content = '<|tool_response_start|>' + content + '<|tool_response_end|>' -%}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif -%}
"""
# Writes strings unescaped between single quotes, objects as JSON, everything else as Jinja prints it. The key for
# thinking is `thinking`.
LFM25 = """\
{{- bos_token -}}
{%- macro value(v) -%}
    {{- "'" + v + "'" if v is string else (v | tojson if v is mapping else v | string) -}}
{%- endmacro -%}
{%- if tools %}{{- '<|im_start|>system\\nList of tools: ' + tools | tojson + '<|im_end|>\\n' }}{% endif -%}
{%- set ns = namespace(last=-1) -%}
{%- for message in messages -%}{%- if message.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.thinking is defined and loop.index0 > ns.last -%}
        {{- '<think>' + message.thinking + '</think>' -}}
    {%- endif -%}
    {{- message.content.split('</think>')[-1] -}}
    {%- if message.tool_calls is defined -%}
        {{- '<|tool_call_start|>[' -}}
        {%- for call in message.tool_calls -%}
            {{- call.function.name + '(' -}}
            {%- for key, v in call.function.arguments.items() -%}
                {{- key + '=' + value(v) -}}{{- ', ' if not loop.last -}}
            {%- endfor -%}
            {{- ')' -}}{{- ', ' if not loop.last -}}
        {%- endfor -%}
        {{- ']<|tool_call_end|>' -}}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif -%}
"""
GEMMA = """\
{{- bos_token }}{% for message in messages %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
{{- message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{% endif -%}
"""


@dataclass(frozen=True)
class ChatFormat:
    """The parts of a model that chatting needs."""

    tokenizer: Tokenizer
    template: ChatTemplate
    markup: Markup


_FORMATS: dict[str, tuple[str, list[str], list[str]]] = {  # template, special tokens, ordinary ones
    "qwen3": (QWEN3, CHATML, [*STEERING, *THINKING]),
    "qwen3.5": (QWEN35, CHATML, [*STEERING, *THINKING]),
    "lfm2": (LFM2, LFM, []),
    "lfm2.5": (LFM25, LFM, []),
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], []),
}
WITH_TOOLS = ("qwen3", "qwen3.5", "lfm2", "lfm2.5")


@functools.cache
def chat_format(name: str) -> ChatFormat:
    """The format of this name in _FORMATS."""
    template, special, ordinary = _FORMATS[name]
    return make(template, special, ordinary)


def write(name: str, folder: Path) -> None:
    """Give a checkpoint of at least 270 tokens the format of this name in _FORMATS."""
    template, special, ordinary = _FORMATS[name]
    (folder / "tokenizer.json").write_bytes(_tokenizer_json(special, ordinary))
    config = {**_config(special), "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _tokenizer_json(special: list[str], ordinary: list[str]) -> bytes:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    description = byte_tokenizer_json()
    description["added_tokens"] = [
        {"id": 256 + n, "content": text, **flags, "special": text in special}
        for n, text in enumerate([*special, *ordinary])
    ]
    return json.dumps(description).encode()


def _config(special: list[str]) -> dict[str, str]:
    return {"bos_token": special[0], "eos_token": "<|im_end|>"}


def make(
    template: str, special: list[str], ordinary: list[str], names: dict[str, str] | None = None
) -> ChatFormat:
    """A tokenizer of bytes and the given added tokens, with a template. `names`: bos_token and eos_token."""
    config = _config(special) if names is None else names
    tokenizer = asyncio.run(Tokenizer.load(_tokenizer_json(special, ordinary), config))
    chat = ChatTemplate(template, tokenizer)
    markup = Markup.of(tokenizer, template)
    chat.write_calls, chat.think = markup.write_calls, markup.think
    return ChatFormat(tokenizer, chat, markup)
