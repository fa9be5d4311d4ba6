# ruff: noqa: E501
"""Chat templates in the style of published ones, with their tokenizers' control tokens.

They follow the model cards and templates of each family. Long fixed texts are shortened; the logic is complete.
`STYLES`: name -> Style. tests/goldens/make_chats.py has transformers render conversations with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@dataclass(frozen=True)
class Style:
    """`special`: added tokens that the file marks as special; `ordinary`: added tokens that it does not mark; `ends`:
    tokens that end a turn; `switch`: the variable that turns thinking on and off."""

    template: str
    special: list[str]
    ordinary: list[str] = field(default_factory=list)
    bos: str | None = None
    eos: str = "<|im_end|>"
    ends: tuple[str, ...] = ("<|im_end|>",)
    switch: str = "enable_thinking"

    @property
    def names(self) -> dict[str, str]:
        """bos_token and eos_token, as tokenizer_config.json has them."""
        return {"eos_token": self.eos, **({"bos_token": self.bos} if self.bos else {})}


_JSON_TOOLS = """\
{%- macro offer(tools) -%}
    {{- '# Tools\\n\\nFunctions, within <tools></tools>:\\n<tools>' -}}
    {%- for tool in tools %}{{ '\\n' ~ (tool | tojson) }}{% endfor -%}
    {{- '\\n</tools>\\n\\nCall one by JSON within <tool_call></tool_call>.' -}}
{%- endmacro -%}
"""
_RESULTS = """\
{%- macro result(messages, i, text) -%}
    {%- if i == 0 or messages[i - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif -%}
    {{- '\\n<tool_response>\\n' ~ text ~ '\\n</tool_response>' -}}
    {%- if i + 1 == messages | length or messages[i + 1].role != 'tool' %}{{ '<|im_end|>\\n' }}{% endif -%}
{%- endmacro -%}
"""

QWEN25 = (
    _JSON_TOOLS
    + _RESULTS
    + """\
{%- set head = messages[0].content if messages[0].role == 'system' else 'You are Qwen.' -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n' + head + '\\n\\n' + offer(tools) + '<|im_end|>\\n' -}}
{%- else -%}
    {{- '<|im_start|>system\\n' + head + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) or (m.role == 'assistant' and not m.tool_calls) -%}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
    {%- elif m.role == 'assistant' -%}
        {{- '<|im_start|>assistant' -}}
        {%- if m.content %}{{ '\\n' + m.content }}{% endif -%}
        {%- for call in m.tool_calls -%}
            {%- set f = call.function if call.function is defined else call -%}
            {{- '\\n<tool_call>\\n{"name": "' + f.name + '", "arguments": ' + (f.arguments | tojson) + '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif m.role == 'tool' -%}
        {{- result(messages, loop.index0, m.content) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
)

# The last question starts at the last user turn that is not a tool result. Content that is not a string counts as
# empty.
QWEN3 = (
    _JSON_TOOLS
    + _RESULTS
    + """\
{%- if tools -%}
    {{- '<|im_start|>system\\n' + (messages[0].content + '\\n\\n' if messages[0].role == 'system' else '') -}}
    {{- offer(tools) + '<|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- set ns = namespace(last=messages | length - 1, open=true) -%}
{%- for m in messages[::-1] -%}
    {%- if ns.open and m.role == 'user' and m.content is string
        and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) -%}
        {%- set ns.open = false -%}{%- set ns.last = messages | length - 1 - loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
    {%- set content = m.content if m.content is string else '' -%}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) -%}
        {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' -}}
    {%- elif m.role == 'assistant' -%}
        {%- set thought = '' -%}
        {%- if m.reasoning_content is string -%}
            {%- set thought = m.reasoning_content -%}
        {%- elif '</think>' in content -%}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if loop.index0 > ns.last and (loop.last or thought) -%}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -}}
        {%- else -%}
            {{- content -}}
        {%- endif -%}
        {%- for call in m.tool_calls or [] -%}
            {%- if content or not loop.first %}{{ '\\n' }}{% endif -%}
            {%- set f = call.function or call -%}
            {{- '<tool_call>\\n{"name": "' + f.name + '", "arguments": ' -}}
            {{- f.arguments if f.arguments is string else f.arguments | tojson -}}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif m.role == 'tool' -%}
        {{- result(messages, loop.index0, content) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif -%}
{%- endif -%}
"""
)

_PARTS = """\
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content is iterable and content is not mapping -%}
        {%- for item in content -%}
            {%- if item.type == 'image' or 'image_url' in item -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif 'text' in item -%}
                {{- item.text -}}
            {%- else -%}
                {{- raise_exception('Unexpected item type in content.') -}}
            {%- endif -%}
        {%- endfor -%}
    {%- elif not (content is none or content is undefined) -%}
        {{- raise_exception('Unexpected content type.') -}}
    {%- endif -%}
{%- endmacro -%}
"""
QWEN35 = (
    _PARTS
    + _RESULTS
    + """\
{%- set head = text_of(messages[0].content) | trim if messages[0].role == 'system' else '' -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n# Tools\\n\\n<tools>' -}}
    {%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor -%}
    {{- '\\n</tools>\\n\\nCall by <tool_call>\\n<function=name>\\n</function>\\n</tool_call>.' -}}
    {{- ('\\n\\n' + head if head else '') + '<|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' + head + '<|im_end|>\\n' -}}
{%- endif -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}
    {%- if m.role == 'user' -%}
        {%- set text = text_of(m.content) | trim -%}
        {%- if not (text.startswith('<tool_response>') and text.endswith('</tool_response>')) -%}
            {%- set ns.last = loop.index0 -%}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if ns.last < 0 %}{{ raise_exception('No user query found in messages.') }}{% endif -%}
{%- for m in messages -%}
    {%- set content = text_of(m.content) | trim -%}
    {%- if m.role == 'system' -%}
        {%- if not loop.first %}{{ raise_exception('System message must be at the beginning.') }}{% endif -%}
    {%- elif m.role == 'user' -%}
        {{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' -}}
    {%- elif m.role == 'assistant' -%}
        {%- set thought = '' -%}
        {%- if m.reasoning_content is string -%}
            {%- set thought = m.reasoning_content -%}
        {%- elif '</think>' in content -%}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if loop.index0 > ns.last and thought | trim -%}
            {{- '<think>\\n' + thought | trim + '\\n</think>\\n\\n' -}}
        {%- endif -%}
        {{- content -}}
        {%- for call in m.tool_calls or [] -%}
            {%- set f = call.function if call.function is defined else call -%}
            {{- ('\\n\\n' if content else '') if loop.first else '\\n' -}}
            {{- '<tool_call>\\n<function=' + f.name + '>\\n' -}}
            {%- for key, value in f.arguments | items -%}
                {{- '<parameter=' + key + '>\\n' -}}
                {{- value | tojson if value is mapping or (value is sequence and value is not string) else value | string -}}
                {{- '\\n</parameter>\\n' -}}
            {%- endfor -%}
            {{- '</function>\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif m.role == 'tool' -%}
        {{- result(messages, loop.index0, content) -}}
    {%- else -%}
        {{- raise_exception('Unexpected message role.') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {{- '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and enable_thinking is false else '<think>\\n' -}}
{%- endif -%}
"""
)

# Calls are already in the content. Content that is not a string is printed as JSON.
LFM2 = """\
{{- bos_token -}}
{%- set ns = namespace(head='') -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set ns.head = messages[0]['content'] -%}{%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
    {%- set ns.head = ns.head + ('\\n' if ns.head else '') + 'List of tools: <|tool_list_start|>[' -%}
    {%- for tool in tools -%}
        {%- set ns.head = ns.head + (tool if tool is string else tool | tojson) + ('' if loop.last else ', ') -%}
    {%- endfor -%}
    {%- set ns.head = ns.head + ']<|tool_list_end|>' -%}
{%- endif -%}
{%- if ns.head %}{{ '<|im_start|>system\\n' + ns.head + '<|im_end|>\\n' }}{% endif -%}
{%- for m in messages -%}
    {%- set content = m['content'] if m['content'] is string else m['content'] | tojson -%}
    {%- if m['role'] == 'tool' -%}
        {%- set content = '<|tool_response_start|>' + content + '<|tool_response_end|>' -%}
    {%- endif -%}
    {{- '<|im_start|>' + m['role'] + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
LFM25 = """\
{{- bos_token -}}
{%- set keep = preserve_thinking | default(false) -%}
{%- macro literal(value) -%}
    {{- "'" + value + "'" if value is string else (value | tojson if value is mapping else value | string) -}}
{%- endmacro -%}
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for item in content -%}
            {{- '<image>' if item['type'] == 'image' else (item['text'] if item['type'] == 'text' else item | tojson) -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(head='', last=-1) -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0].get('content') %}{% set ns.head = text_of(messages[0]['content']) %}{% endif -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
    {%- set ns.head = ns.head + ('\\n\\n' if ns.head else '') + 'List of tools: ' + (tools | tojson) -%}
{%- endif -%}
{%- if ns.head %}{{ '<|im_start|>system\\n' + ns.head + '<|im_end|>\\n' }}{% endif -%}
{%- for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor -%}
{%- for m in messages -%}
    {{- '<|im_start|>' + m.role + '\\n' -}}
    {%- if m.role == 'assistant' -%}
        {%- generation -%}
        {%- if m.thinking is defined and (keep or loop.index0 > ns.last) -%}
            {{- '<think>' + m.thinking + '</think>' -}}
        {%- endif -%}
        {%- if m.content is defined -%}
            {%- set content = text_of(m.content) -%}
            {%- if '</think>' in content and not (keep or loop.index0 > ns.last) -%}
                {%- set content = content.split('</think>')[-1] | trim -%}
            {%- endif -%}
            {{- content -}}
        {%- endif -%}
        {%- if m.tool_calls is defined -%}
            {{- '<|tool_call_start|>[' -}}
            {%- for call in m.tool_calls -%}
                {{- call['function']['name'] + '(' -}}
                {%- for key, value in call['function']['arguments'].items() -%}
                    {{- key + '=' + literal(value) + ('' if loop.last else ', ') -}}
                {%- endfor -%}
                {{- ')' + ('' if loop.last else ', ') -}}
            {%- endfor -%}
            {{- ']<|tool_call_end|>' -}}
        {%- endif -%}
        {{- '<|im_end|>\\n' -}}
        {%- endgeneration -%}
    {%- else -%}
        {%- if m.get('content') %}{{ text_of(m['content']) }}{% endif -%}
        {{- '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
GEMMA3 = """\
{{- bos_token -}}
{%- set head = '' -%}{%- set rest = messages -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set said = messages[0]['content'] -%}
    {%- set head = (said if said is string else said[0]['text']) + '\\n\\n' -%}
    {%- set rest = messages[1:] -%}
{%- endif -%}
{%- for m in rest -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
    {%- endif -%}
    {{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' -}}
    {{- head if loop.first else '' -}}
    {%- if m['content'] is string -%}
        {{- m['content'] | trim -}}
    {%- elif m['content'] is iterable -%}
        {%- for item in m['content'] -%}
            {%- if item['type'] == 'image' %}{{ '<start_of_image>' }}{% endif -%}
            {%- if item['type'] == 'text' %}{{ item['text'] | trim }}{% endif -%}
        {%- endfor -%}
    {%- else -%}
        {{- raise_exception('Invalid content type') -}}
    {%- endif -%}
    {{- '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif -%}
"""
LLAMA32 = """\
{{- bos_token -}}
{%- if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif -%}
{%- set head = '' -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set head = messages[0]['content'] | trim -%}{%- set messages = messages[1:] -%}
{%- endif -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + ('Environment: ipython\\n' if tools is not none else '') -}}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + date_string + '\\n\\n' + head + '<|eot_id|>' -}}
{%- if tools is not none -%}
    {%- if not messages %}{{ raise_exception('There is no first user message for the tools.') }}{% endif -%}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nRespond with JSON for a call of one of these functions.\\n\\n' -}}
    {%- for t in tools %}{{ (t | tojson(indent=4)) + '\\n\\n' }}{% endfor -%}
    {{- messages[0]['content'] | trim + '<|eot_id|>' -}}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- for m in messages -%}
    {%- if 'tool_calls' in m -%}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception('Only single tool-calls at once!') }}{% endif -%}
        {%- set f = m.tool_calls[0].function -%}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + f.name + '", "parameters": ' -}}
        {{- (f.arguments | tojson) + '}<|eot_id|>' -}}
    {%- elif m.role == 'tool' or m.role == 'ipython' -%}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' -}}
        {{- m.content | tojson if m.content is mapping or m.content is iterable else m.content -}}
        {{- '<|eot_id|>' -}}
    {%- else -%}
        {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif -%}
"""
SMOLLM2 = """\
{%- for m in messages -%}
    {%- if loop.first and m['role'] != 'system' -%}
        {{- '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM<|im_end|>\\n' -}}
    {%- endif -%}
    {{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
SMOLLM3 = """\
{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif -%}
{%- set mode = '/think' if enable_thinking else '/no_think' -%}
{%- set own = '' -%}
{%- if messages[0].role == 'system' -%}
    {%- set said = messages[0].content -%}
    {%- if '/no_think' in said %}{% set mode = '/no_think' %}{% elif '/think' in said %}{% set mode = '/think' %}{% endif -%}
    {%- set own = said.replace('/no_think', '').replace('/think', '').rstrip() -%}
{%- endif -%}
{{- '<|im_start|>system\\n## Metadata\\n\\nReasoning Mode: ' + mode + '\\n\\n## Custom Instructions\\n\\n' -}}
{{- (own if own else 'You are a helpful AI assistant named SmolLM.') + '\\n\\n' -}}
{%- if xml_tools or tools -%}
    {{- '### Tools\\n\\n<tools>\\n' -}}
    {%- for tool in xml_tools or tools %}{{ (tool | string) + '\\n' }}{% endfor -%}
    {{- '</tools>\\n\\nCall one by JSON within <tool_call></tool_call>.\\n\\n' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- for m in messages -%}
    {%- set content = m.content if m.content is string else '' -%}
    {%- if m.role == 'user' -%}
        {{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' -}}
    {%- elif m.role == 'assistant' -%}
        {{- '<|im_start|>assistant\\n' + ('' if mode == '/think' else '<think>\\n\\n</think>\\n') -}}
        {{- content.lstrip('\\n') + '<|im_end|>\\n' -}}
    {%- elif m.role == 'tool' -%}
        {{- '<|im_start|>user\\n' + content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' + ('' if mode == '/think' else '<think>\\n\\n</think>\\n') -}}
{%- endif -%}
"""
MISTRAL = """\
{{- bos_token -}}
{%- set head = 'You are Mistral Small 3.' -%}{%- set rest = messages -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set said = messages[0]['content'] -%}
    {%- set head = said if said is string else said[0]['text'] -%}{%- set rest = messages[1:] -%}
{%- endif -%}
{{- '[SYSTEM_PROMPT]' + head + '[/SYSTEM_PROMPT]' -}}
{%- set ns = namespace(turn=0) -%}
{%- for m in rest if m['role'] != 'tool' and not m.get('tool_calls') -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('After the optional system message, conversation roles must alternate.') -}}
    {%- endif -%}
{%- endfor -%}
{%- set asked = rest | selectattr('role', 'equalto', 'user') | list -%}
{%- for m in rest -%}
    {%- if m['role'] == 'user' -%}
        {%- if tools is not none and m == asked[-1] %}{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif -%}
        {{- '[INST]' -}}
        {%- if m['content'] is string -%}
            {{- m['content'] -}}
        {%- else -%}
            {%- for item in m['content'] -%}
                {%- if item['type'] == 'text' -%}
                    {{- item['text'] -}}
                {%- elif item['type'] in ('image', 'image_url') -%}
                    {{- '[IMG]' -}}
                {%- else -%}
                    {{- raise_exception('Only text and image blocks are supported in message content!') -}}
                {%- endif -%}
            {%- endfor -%}
        {%- endif -%}
        {{- '[/INST]' -}}
    {%- elif m.tool_calls is defined -%}
        {{- '[TOOL_CALLS] [' -}}
        {%- for call in m.tool_calls -%}
            {%- if call.id is not defined or call.id | length < 9 -%}
                {{- raise_exception('Tool call IDs should be alphanumeric strings with length >= 9!') -}}
            {%- endif -%}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id[-9:] + '"}' + (']' + eos_token if loop.last else ', ') -}}
        {%- endfor -%}
    {%- elif m['role'] == 'assistant' -%}
        {{- (m['content'] if m['content'] is string else m['content'][0]['text']) + eos_token -}}
    {%- elif m['role'] == 'tool' -%}
        {%- if m.tool_call_id is not defined or m.tool_call_id | length < 9 -%}
            {{- raise_exception('Tool call IDs should be alphanumeric strings with length >= 9!') -}}
        {%- endif -%}
        {{- '[TOOL_RESULTS] {"content": ' + m.content | string + ', "call_id": "' + m.tool_call_id[-9:] + '"}[/TOOL_RESULTS]' -}}
    {%- else -%}
        {{- raise_exception('Only user and assistant roles are supported.') -}}
    {%- endif -%}
{%- endfor -%}
"""
PHI4_MINI = """\
{%- for m in messages -%}
    {%- if m['role'] == 'system' and 'tools' in m and m['tools'] is not none -%}
        {{- '<|system|>' + m['content'] + '<|tool|>' + m['tools'] + '<|/tool|><|end|>' -}}
    {%- else -%}
        {{- '<|' + m['role'] + '|>' + m['content'] + '<|end|>' -}}
    {%- endif -%}
{%- endfor -%}
{{- '<|assistant|>' if add_generation_prompt else eos_token -}}
"""
PHI35 = """\
{%- for m in messages -%}
    {%- if m['role'] == 'system' and m['content'] -%}
        {{- '<|system|>\\n' + m['content'] + '<|end|>\\n' -}}
    {%- elif m['role'] == 'user' -%}
        {{- '<|user|>\\n' + m['content'] + '<|end|>\\n' -}}
    {%- elif m['role'] == 'assistant' -%}
        {{- '<|assistant|>\\n' + m['content'] + '<|end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{{- '<|assistant|>\\n' if add_generation_prompt else eos_token -}}
"""
DEEPSEEK_R1 = """\
{%- set ns = namespace(in_calls=false, in_results=false, first=true, head='') -%}
{%- for m in messages %}{% if m['role'] == 'system' %}{% set ns.head = m['content'] %}{% endif %}{% endfor -%}
{{- bos_token + ns.head -}}
{%- for m in messages -%}
    {%- if m['role'] == 'user' -%}
        {%- set ns.in_results = false -%}
        {{- '<｜User｜>' + m['content'] -}}
    {%- elif m['role'] == 'assistant' -%}
        {%- if m['tool_calls'] -%}
            {%- set ns.in_results = false -%}
            {%- for call in m['tool_calls'] -%}
                {{- '\\n' if ns.in_calls else '<｜Assistant｜><｜tool▁calls▁begin｜>' -}}
                {%- set ns.in_calls = true -%}
                {{- '<｜tool▁call▁begin｜>' + call['type'] + '<｜tool▁sep｜>' + call['function']['name'] -}}
                {{- '\\n```json\\n' + call['function']['arguments'] + '\\n```<｜tool▁call▁end｜>' -}}
            {%- endfor -%}
            {{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' -}}
        {%- endif -%}
        {%- if m['content'] is not none -%}
            {%- if ns.in_results -%}
                {{- '<｜tool▁outputs▁end｜>' + m['content'] + '<｜end▁of▁sentence｜>' -}}
                {%- set ns.in_results = false -%}
            {%- else -%}
                {%- set content = m['content'] -%}
                {%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif -%}
                {{- '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' -}}
            {%- endif -%}
        {%- endif -%}
    {%- elif m['role'] == 'tool' -%}
        {%- set ns.in_results = true -%}
        {{- '<｜tool▁outputs▁begin｜>' if ns.first else '\\n' -}}
        {%- set ns.first = false -%}
        {{- '<｜tool▁output▁begin｜>' + m['content'] + '<｜tool▁output▁end｜>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if ns.in_results %}{{ '<｜tool▁outputs▁end｜>' }}{% endif -%}
{%- if add_generation_prompt and not ns.in_results %}{{ '<｜Assistant｜><think>\\n' }}{% endif -%}
"""
GRANITE33 = """\
{%- if tools and not available_tools %}{% set available_tools = tools %}{% endif -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set head = messages[0]['content'] -%}{%- set rest = messages[1:] -%}
{%- else -%}
    {%- set head = 'Knowledge Cutoff Date: April 2024. You are Granite.' -%}{%- set rest = messages -%}
    {%- if thinking %}{% set head = head + ' Think between <think></think>.' %}{% endif -%}
{%- endif -%}
{{- '<|start_of_role|>system<|end_of_role|>' + head + '<|end_of_text|>\\n' -}}
{%- if available_tools -%}
    {{- '<|start_of_role|>available_tools<|end_of_role|>' + (available_tools | tojson(indent=4)) + '<|end_of_text|>\\n' -}}
{%- endif -%}
{%- for m in rest -%}
    {{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\\n' -}}
    {%- if loop.last and add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif -%}
{%- endfor -%}
"""
GLM45 = """\
[gMASK]<sop>
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content is iterable and content is not mapping -%}
        {%- for item in content -%}
            {%- if item is mapping and item.type == 'text' -%}{{- item.text -}}
            {%- elif item is string -%}{{- item -}}{%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{- content -}}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- '<|system|>\\n# Tools\\n\\n<tools>\\n' -}}
    {%- for tool in tools %}{{ (tool | tojson) + '\\n' }}{% endfor -%}
    {{- '</tools>' -}}
{%- endif -%}
{%- set ns = namespace(last=-1) -%}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor -%}
{%- for m in messages -%}
    {%- if m.role == 'user' -%}
        {%- set text = text_of(m.content) -%}
        {{- '<|user|>\\n' + text -}}
        {{- '/nothink' if enable_thinking is defined and not enable_thinking and not text.endswith('/nothink') else '' -}}
    {%- elif m.role == 'assistant' -%}
        {%- set thought = '' -%}{%- set content = text_of(m.content) -%}
        {%- if m.reasoning_content is string -%}
            {%- set thought = m.reasoning_content -%}
        {%- elif '</think>' in content -%}
            {%- set thought = (content.split('</think>') | first).rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
            {%- set content = (content.split('</think>') | last).lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|assistant|>\\n<think>' + (thought.strip() if loop.index0 > ns.last else '') + '</think>' -}}
        {%- if content.strip() %}{{ '\\n' + content.strip() }}{% endif -%}
        {%- for call in m.tool_calls or [] -%}
            {%- set f = call.function if call.function else call -%}
            {{- '\\n<tool_call>' + f.name -}}
            {%- for key, value in f.arguments.items() -%}
                {{- '\\n<arg_key>' ~ key ~ '</arg_key>\\n<arg_value>' -}}
                {{- (value if value is string else value | tojson) ~ '</arg_value>' -}}
            {%- endfor -%}
            {{- '\\n</tool_call>' -}}
        {%- endfor -%}
    {%- elif m.role == 'tool' -%}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|observation|>' }}{% endif -%}
        {%- if m.content is string -%}
            {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' -}}
        {%- else -%}
            {%- for r in m.content -%}
                {{- '\\n<tool_response>\\n' ~ (r.output if r.output is defined else r) ~ '\\n</tool_response>' -}}
            {%- endfor -%}
        {%- endif -%}
    {%- elif m.role == 'system' -%}
        {{- '<|system|>\\n' + text_of(m.content) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' + ('\\n<think></think>' if enable_thinking is defined and not enable_thinking else '') -}}
{%- endif -%}
"""
COHERE = """\
{{- bos_token -}}
{%- set head = 'You are Command-R.' -%}{%- set rest = messages -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set head = messages[0]['content'] -%}{%- set rest = messages[1:] -%}
{%- endif -%}
{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + head + '<|END_OF_TURN_TOKEN|>' -}}
{%- for m in rest -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
    {%- endif -%}
    {%- set content = m['content'] -%}
    {%- if m['role'] == 'user' -%}
        {{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' -}}
    {%- elif m['role'] == 'assistant' -%}
        {{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif -%}
"""
OLMO2 = """\
{{- bos_token -}}
{%- for m in messages -%}
    {%- if m['role'] == 'system' -%}
        {{- '<|system|>\\n' + m['content'] + '\\n' -}}
    {%- elif m['role'] == 'user' -%}
        {{- '<|user|>\\n' + m['content'] + '\\n' -}}
    {%- elif m['role'] == 'assistant' -%}
        {{- '<|assistant|>\\n' + m['content'] + eos_token + ('' if loop.last else '\\n') -}}
    {%- endif -%}
    {%- if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif -%}
{%- endfor -%}
"""
ZEPHYR = """\
{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'system' %}
{{ '<|system|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + m['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
# Content is always a list of parts, as some vision models have it.
PARTS_ONLY = """\
{%- for m in messages -%}
    {{- '<|im_start|>' + m['role'] | capitalize -}}
    {{- ':' if m['content'][0]['type'] == 'image' else ': ' -}}
    {%- for line in m['content'] -%}
        {%- if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif -%}
    {%- endfor -%}
    {{- '<end_of_utterance>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif -%}
"""
HERMES = (
    _JSON_TOOLS
    + """\
{{- bos_token -}}
{%- if tools %}{{ '<|im_start|>system\\n' + offer(tools) + '<|im_end|>\\n' }}{% endif -%}
{%- for m in messages -%}
    {%- if m.role in ('user', 'system') or (m.role == 'assistant' and m.tool_calls is not defined) -%}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
    {%- elif m.role == 'assistant' -%}
        {{- '<|im_start|>assistant' -}}
        {%- for call in m.tool_calls -%}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif m.role == 'tool' -%}
        {{- '<|im_start|>tool\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
)

_CALL_MARKS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
_THINK = ["<think>", "</think>"]
_LFM = ["<|startoftext|>", "<|im_start|>", "<|im_end|>"]
_LFM += [
    f"<|tool_{name}_{end}|>" for name in ("list", "call", "response") for end in ("start", "end")
]
_DEEPSEEK = ["<｜User｜>", "<｜Assistant｜>", "<｜tool▁sep｜>", *_THINK]
_DEEPSEEK += [
    f"<｜tool▁{name}▁{end}｜>"
    for name in ("calls", "call", "outputs", "output")
    for end in ("begin", "end")
]
_MISTRAL = [
    f"[{slash}{name}]"
    for name in ("SYSTEM_PROMPT", "INST", "AVAILABLE_TOOLS", "TOOL_RESULTS")
    for slash in ("", "/")
]
_LLAMA = [
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
]
_PHI = [
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|tool|>",
    "<|/tool|>",
]
_GLM = [
    "<|endoftext|>",
    "[gMASK]",
    "<sop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
]
_COHERE = ["<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"]
_COHERE += ["<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"]

STYLES: dict[str, Style] = {
    "qwen2.5": Style(QWEN25, CHATML, _CALL_MARKS),
    "qwen3": Style(QWEN3, CHATML, [*_CALL_MARKS, *_THINK]),
    "qwen3.5": Style(QWEN35, CHATML, [*_CALL_MARKS, *_THINK]),
    "lfm2": Style(LFM2, _LFM, bos="<|startoftext|>"),
    "lfm2.5": Style(LFM25, _LFM, bos="<|startoftext|>"),
    "gemma3": Style(
        GEMMA3, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], ["<start_of_image>"],
        bos="<bos>", eos="<eos>", ends=("<end_of_turn>",),
    ),
    "llama3.2": Style(LLAMA32, _LLAMA, bos=_LLAMA[0], eos="<|eot_id|>", ends=("<|eot_id|>",)),
    "smollm2": Style(SMOLLM2, CHATML, bos="<|im_start|>"),
    "smollm3": Style(SMOLLM3, CHATML, [*_CALL_MARKS, *_THINK], bos="<|im_start|>"),
    "mistral": Style(
        MISTRAL, ["<s>", "</s>", *_MISTRAL, "[TOOL_CALLS]"], bos="<s>", eos="</s>", ends=("</s>",)
    ),
    "phi4-mini": Style(PHI4_MINI, _PHI, eos="<|endoftext|>", ends=("<|end|>",)),
    "phi3.5": Style(PHI35, _PHI[:1], _PHI[1:5], eos="<|endoftext|>", ends=("<|end|>",)),
    "deepseek-r1": Style(
        DEEPSEEK_R1, ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], _DEEPSEEK,
        bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>", ends=("<｜end▁of▁sentence｜>",),
    ),
    "granite3.3": Style(
        GRANITE33, ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"], ["<|tool_call|>"],
        eos="<|end_of_text|>", ends=("<|end_of_text|>",), switch="thinking",
    ),
    "glm4.5": Style(
        GLM45, _GLM, [*_CALL_MARKS, *_THINK, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
        eos="<|endoftext|>", ends=("<|user|>",),
    ),
    "command-r": Style(
        COHERE, _COHERE, bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>", ends=("<|END_OF_TURN_TOKEN|>",)
    ),
    "olmo2": Style(
        OLMO2, ["<|endoftext|>"], bos="<|endoftext|>", eos="<|endoftext|>", ends=("<|endoftext|>",)
    ),
    "zephyr": Style(ZEPHYR, ["<s>", "</s>"], bos="<s>", eos="</s>", ends=("</s>",)),
    "parts only": Style(
        PARTS_ONLY, ["<|im_start|>", "<end_of_utterance>"],
        eos="<end_of_utterance>", ends=("<end_of_utterance>",),
    ),
    "hermes": Style(
        HERMES, ["<|begin_of_text|>", "<|im_start|>", "<|im_end|>"], [*_CALL_MARKS, *_THINK],
        bos="<|begin_of_text|>",
    ),
}  # fmt: skip
