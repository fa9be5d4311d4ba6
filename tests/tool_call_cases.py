"""Texts of tool calls and what they mean, for test_tool_calls.py.

PUBLISHED: cases from the tests of other parsers, or from reports of what they got wrong (repository#number). OURS: more
cases. REFUSED: texts whose meaning is in doubt.
"""

from __future__ import annotations

from typing import Any

Cases = list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]]  # what, syntax, text, calls


def tool(name: str, required: tuple[str, ...] = (), /, **properties: Any) -> dict[str, Any]:
    """An offered tool; each property is a type or a whole schema."""
    given = {key: {"type": one} if isinstance(one, str) else one for key, one in properties.items()}
    schema = {"type": "object", "properties": given, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TOOLS = [
    tool("weather", ("city",), city="string", days="integer", metric="boolean", state="string"),
    tool("area", shape="string", dimensions="object", precision="integer"),
    tool("bash", command="string", timeout="integer"),
    tool("write", path="string", content="string"),
    tool("pick", items="array", tags="array", size="array"),
    tool("user", name="string", age="integer", address="object", role={"type": ["string", "null"]}),
    tool("run", args="array", input="object"),
    tool("shop.order", list="array"),
    tool("now"),
    {"type": "function", "function": {"name": "anything"}},
]
TWO = "<parameter=city>\nDallas\n</parameter>\n<parameter=state>\nTX\n</parameter>\n"
DALLAS = {"city": "Dallas", "state": "TX"}
PUBLISHED: Cases = [
    # as vLLM's hermes parser reads it
    (
        "hermes: plain",
        "json",
        '\n{"name": "weather", "arguments": {"city": "NYC"}}\n',
        [("weather", {"city": "NYC"})],
    ),
    (
        "hermes: arguments already text (Granite 4)",
        "json",
        '{"name": "weather", "arguments": "{\\"city\\": \\"max\\"}"}',
        [("weather", {"city": "max"})],
    ),
    (
        "hermes: its end mark in a string (vLLM#45167)",
        "json",
        '{"name": "bash", "arguments": {"command": "echo </tool_call> done"}}',
        [("bash", {"command": "echo </tool_call> done"})],
    ),
    (
        "localharness#104: parameters for arguments",
        "json",
        '{"name": "write", "parameters": {"path": "a.txt", "content": "hello"}}',
        [("write", {"path": "a.txt", "content": "hello"})],
    ),
    (
        "hermes-agent#83937: no arguments as empty text",
        "json",
        '{"name": "now", "arguments": ""}',
        [("now", {})],
    ),
    # as vLLM's llama3_json parser reads it
    (
        "llama3: several, by semicolons",
        "json",
        '{"name": "bash", "parameters": {"command": "a"}}; {"name": "now", "parameters": {}} ;\n'
        '{"name": "bash", "arguments": {"command": "{b} [c]"}}',
        [("bash", {"command": "a"}), ("now", {}), ("bash", {"command": "{b} [c]"})],
    ),
    (
        "llama3: deep",
        "json",
        '{"name": "area", "parameters": {"dimensions": {"a": {"b": {"c": {"d": "deep"}}}}}}',
        [("area", {"dimensions": {"a": {"b": {"c": {"d": "deep"}}}}})],
    ),
    (
        "llama3: escaped quotes",
        "json",
        '{"name": "bash", "parameters": {"command": "He said \\"Hello {w}\\""}}',
        [("bash", {"command": 'He said "Hello {w}"'})],
    ),
    # as vLLM's qwen3coder parser reads it
    ("qwen3coder: two", "tags", f"\n<function=weather>\n{TWO}</function>\n", [("weather", DALLAS)]),
    (
        "qwen3coder: object over lines",
        "tags",
        "<function=area>\n<parameter=shape>\nrectangle\n</parameter>\n<parameter=dimensions>\n"
        '{"width": 10, \n "height": 20}'
        "\n</parameter>\n<parameter=precision>\n2\n</parameter>\n</function>",
        [
            (
                "area",
                {"shape": "rectangle", "dimensions": {"width": 10, "height": 20}, "precision": 2},
            )
        ],
    ),
    (
        "qwen3coder: missing </parameter>",
        "tags",
        f"<function=weather>\n{TWO.replace('</parameter>' + chr(10), '', 1)}"
        "<parameter=days>\n3\n</parameter>\n</function>",
        [("weather", {**DALLAS, "days": 3})],
    ),
    (
        "ollama#17914: </parameter> missing at the end",
        "tags",
        f"<function=weather>\n{TWO.removesuffix('</parameter>' + chr(10))}</function>",
        [("weather", DALLAS)],
    ),
    (
        "qwen3xml: array with JSON's true",
        "tags",
        '<function=pick>\n<parameter=items>\n["a", "b", 1, true]\n</parameter>\n</function>',
        [("pick", {"items": ["a", "b", 1, True]})],
    ),
    (
        "Rapid-MLX#1515: </tool_call> in a value",
        "tags",
        "<function=write>\n<parameter=content>\nA block ends with </tool_call> on its own.\n</parameter>\n</function>",
        [("write", {"content": "A block ends with </tool_call> on its own."})],
    ),
    (
        "Rapid-MLX#1515: </parameter> in a value",
        "tags",
        "<function=write>\n<parameter=content>\nA block ends with </parameter> here.\n</parameter>\n</function>",
        [("write", {"content": "A block ends with </parameter> here."})],
    ),
    (
        "AReaL#1458: a whole parameter in a value",
        "tags",
        "<function=write>\n<parameter=content>\n<parameter=path>\nx\n</parameter>\n</parameter>\n</function>",
        [("write", {"content": "<parameter=path>\nx\n</parameter>"})],
    ),
    (
        "mlx-lm#1881: a parameter's > is missing",
        "tags",
        "<function=weather>\n<parameter=city\nDallas\n</parameter>\n</function>",
        [("weather", {"city": "Dallas"})],
    ),
    # as vLLM's pythonic and lfm2 parsers read it
    (
        "pythonic: all types",
        "python",
        "[user(name='John Doe', age=37, address={'city': 'San Francisco', 'state': 'CA'}, role=None)]",
        [
            (
                "user",
                {
                    "name": "John Doe",
                    "age": 37,
                    "address": {"city": "San Francisco", "state": "CA"},
                    "role": None,
                },
            )
        ],
    ),
    (
        "pythonic: escaped quotes",
        "python",
        r"[write(path='Martha\'s Vineyard', content='\"cool units\"')]",
        [("write", {"path": "Martha's Vineyard", "content": '"cool units"'})],
    ),
    (
        "lfm2: several, none, empty ones",
        "python",
        " [now(), area(dimensions={}), pick(items=[])]",
        [("now", {}), ("area", {"dimensions": {}}), ("pick", {"items": []})],
    ),
    (
        "lfm2: quotes nested",
        "python",
        "[bash(command='sed -n '360,450p' /testbed/common.py')]",
        [("bash", {"command": "sed -n '360,450p' /testbed/common.py"})],
    ),
    (
        "lfm2: quotes nested twice",
        "python",
        "[bash(command='cd /t && python3 -c \"from s import l\nprint(l(3*x, sym='\\,'))\"')]",
        [
            (
                "bash",
                {"command": "cd /t && python3 -c \"from s import l\nprint(l(3*x, sym='\\,'))\""},
            )
        ],
    ),
    (
        "lfm2: a bracket in a string",
        "python",
        "[bash(command='grep -F \"]\" log.txt')]",
        [("bash", {"command": 'grep -F "]" log.txt'})],
    ),
    (
        "lfm2: line feeds",
        "python",
        "[bash(command='cat > f.py << EOF\nimport csv\nprint(1)\nEOF')]",
        [("bash", {"command": "cat > f.py << EOF\nimport csv\nprint(1)\nEOF"})],
    ),
    (
        "lfm2: NUL",
        "python",
        "[bash(command='printf a\x00b')]",
        [("bash", {"command": "printf a\x00b"})],
    ),
    (
        "lfm2: a set, a tuple, leading zeros",
        "python",
        "[pick(tags={'urgent', 'bug'}, size=(800, 600)), weather(city='x', days=07)]",
        [
            ("pick", {"tags": ["urgent", "bug"], "size": [800, 600]}),
            ("weather", {"city": "x", "days": 7}),
        ],
    ),
    (
        "lfm2: a dotted name",
        "python",
        "[shop.order(list=[{'name': 'Lasagna', 'amount': -250.5}])]",
        [("shop.order", {"list": [{"name": "Lasagna", "amount": -250.5}]})],
    ),
    (
        "mlx-lm#1785: a comma in single quotes",
        "python",
        "[write(path='/tmp/hello.py', content='# Hello\\nprint(\"Hello, World!\")')]",
        [("write", {"path": "/tmp/hello.py", "content": '# Hello\nprint("Hello, World!")'})],
    ),
]


OURS: Cases = [
    (
        "keys beside the name",
        "json",
        '{"name": "weather", "city": "x", "days": 2}',
        [("weather", {"city": "x", "days": 2})],
    ),
    (
        "OpenAI's shape",
        "json",
        '{"id": "call_9", "type": "function", "function": {"name": "weather", "arguments": {"city": "x"}}}',
        [("weather", {"city": "x"})],
    ),
    (
        "a list in its message",
        "json",
        '{"tool_calls": [{"function": {"name": "now", "arguments": {}}}]}',
        [("now", {})],
    ),
    (
        "the name under another key",
        "json",
        '{"tool": "weather", "args": {"city": "x"}}',
        [("weather", {"city": "x"})],
    ),
    (
        "the name beside a parameter called name",
        "json",
        '{"tool_name": "user", "name": "Bo", "age": 3}',
        [("user", {"name": "Bo", "age": 3})],
    ),
    (
        "args is a parameter: by its type",
        "json",
        '{"name": "run", "args": ["-l"]}',
        [("run", {"args": ["-l"]})],
    ),
    (
        "args is a parameter, and the arguments",
        "json",
        '{"name": "run", "args": {"args": ["-l"]}}',
        [("run", {"args": ["-l"]})],
    ),
    (
        "Python's literals",
        "json",
        "{'name': 'user', 'arguments': {'name': 'it\\'s', 'role': None, 'age': 3,}}",
        [("user", {"name": "it's", "role": None, "age": 3})],
    ),
    (
        "a quote not escaped",
        "json",
        '{"name": "write", "arguments": {"content": "say "hi" now", "path": "a"}}',
        [("write", {"content": 'say "hi" now', "path": "a"})],
    ),
    (
        "what only looks like a key",
        "json",
        '{"name": "write", "arguments": {"content": "{"a": "b", "c": 1}", "path": "p"}}',
        [("write", {"content": '{"a": "b", "c": 1}', "path": "p"})],
    ),
    (
        "an apostrophe not escaped",
        "json",
        "{'name': 'bash', 'arguments': {'command': 'it's me', 'timeout': 3}}",
        [("bash", {"command": "it's me", "timeout": 3})],
    ),
    (
        "escapes that JSON has not",
        "json",
        r'{"name": "bash", "arguments": {"command": "grep \d+ it\'s"}}',
        [("bash", {"command": r"grep \d+ it's"})],
    ),
    (
        "half a pair each",
        "json",
        '{\'name\': \'bash\', "arguments": {"command": "\\ud83c\\udf5c"}}',
        [("bash", {"command": "🍜"})],
    ),
    (
        "a brace too many",
        "json",
        '{"name": "bash", "arguments": {"command": "a"}}}',
        [("bash", {"command": "a"})],
    ),
    (
        "a brace too few",
        "json",
        '{"name": "bash", "arguments": {"command": "a"}',
        [("bash", {"command": "a"})],
    ),
    ("in a fence", "json", '\n```json\n{"name": "now", "arguments": {}}\n```\n', [("now", {})]),
    (
        "in another syntax",
        "json",
        f"\n<function=weather>\n{TWO}</function>\n",
        [("weather", DALLAS)],
    ),
    (
        "text stays text",
        "tags",
        "<function=write>\n<parameter=path>\ntrue\n</parameter>\n"
        "<parameter=content>\n\n  [1]\n\n</parameter>\n</function>",
        [("write", {"path": "true", "content": "\n  [1]\n"})],
    ),
    (
        "Python's literals in tags",
        "tags",
        "<function=pick>\n<parameter=items>\n['a', True, None]\n</parameter>\n</function>",
        [("pick", {"items": ["a", True, None]})],
    ),
    (
        "a type decides that the end came twice",
        "tags",
        "<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=days>\n3\n</parameter>\n</parameter>\n</function>"
        "\n</function>",
        [("weather", {"city": "x", "days": 3})],
    ),
    (
        "an example call in a value",
        "tags",
        "<function=write>\n<parameter=path>\na\n</parameter>\n<parameter=content>\nSo:\n<tool_call>\n<function=write>\n"
        "<parameter=content>\nx\n</parameter>\n<parameter=path>\nb\n</parameter>\n</function>\n</tool_call>\n</parameter>\n"
        "</function>",
        [
            (
                "write",
                {
                    "path": "a",
                    "content": "So:\n<tool_call>\n<function=write>\n<parameter=content>\nx\n</parameter>\n"
                    "<parameter=path>\nb\n</parameter>\n</function>\n</tool_call>",
                },
            )
        ],
    ),
    (
        "marks talked about in a value",
        "tags",
        "<function=write>\n<parameter=content>\nthe <tool_call> mark, <parameter=q> too\n</parameter>\n</function>",
        [("write", {"content": "the <tool_call> mark, <parameter=q> too"})],
    ),
    ("</function> is missing", "tags", f"<function=weather>\n{TWO}", [("weather", DALLAS)]),
    (
        "an example call in a string",
        "python",
        "[write(content=\"[write(path='a', content='b')]\", path='c')]",
        [("write", {"content": "[write(path='a', content='b')]", "path": "c"})],
    ),
    (
        "an apostrophe",
        "python",
        "[write(content='it's a dog's day, path=3', path=\"a\")]",
        [("write", {"content": "it's a dog's day, path=3", "path": "a"})],
    ),
    (
        "quotes in a list",
        "python",
        "[pick(items=['it's', 'say 'hi'', 3])]",
        [("pick", {"items": ["it's", "say 'hi'", 3]})],
    ),
    (
        "triple quotes",
        "python",
        "write(content='''it's \"x\"\n''', path=r'C:\\new' 'er')",
        [("write", {"content": 'it\'s "x"\n', "path": "C:\\newer"})],
    ),
    (
        "JSON's words, by lines",
        "python",
        "weather(city='a', metric=true)\nweather(city=\"b\", metric=False,)\n",
        [("weather", {"city": "a", "metric": True}), ("weather", {"city": "b", "metric": False})],
    ),
    ("leading zeros of a text", "python", "bash(command=007)", [("bash", {"command": "007"})]),
    (
        "brackets that are wrong at the end",
        "python",
        "[bash(command='a')]]",
        [("bash", {"command": "a"})],
    ),
    (
        "a bracket that is missing at the end",
        "python",
        "[bash(command='a')",
        [("bash", {"command": "a"})],
    ),
]


REFUSED = [
    ("not offered", "json", '{"name": "rm", "arguments": {"path": "/"}}', "'rm' was not offered"),
    ("not offered", "tags", "<function=rm>\n</function>", "'rm' was not offered"),
    ("not offered, beside one that is", "python", "[now(), rm(path='/')]", "'rm' was not offered"),
    ("a key nobody knows", "json", '{"name": "weather", "argument": {"city": "x"}}', "'argument'"),
    (
        "a key beside the arguments",
        "json",
        '{"name": "weather", "arguments": {"city": "x"}, "days": 3}',
        "'days'",
    ),
    (
        "arguments twice",
        "json",
        '{"name": "weather", "arguments": {}, "parameters": {"city": "x"}}',
        "given twice",
    ),
    ("arguments are a list", "json", '{"name": "weather", "arguments": ["x"]}', "no object"),
    ("arguments are other text", "json", '{"name": "weather", "arguments": "x"}', "no object"),
    (
        "two functions",
        "json",
        '{"name": "now", "tool": "weather", "arguments": {}}',
        "two functions",
    ),
    ("two readings", "json", '{"name": "run", "input": {}}', "2 ways"),
    (
        "a brace too few, but where",
        "json",
        '{"name": "area", "arguments": {"dimensions": {"a": 1, "precision": 2}}',
        "end",
    ),
    ("ends with its name", "json", '{"name": "now"', "end"),
    ("ends in a string", "json", '{"name": "bash", "arguments": {"command": "a', "end"),
    ("a quote too many", "json", '{"name": "bash", "arguments": {"command": "a""}}', "JSON"),
    (
        "a key in a quotation",
        "json",
        '{"name": "write", "arguments": {"content": "say "a", "path": b" ok"}}',
        "JSON",
    ),
    (
        "doubled or its own",
        "tags",
        "<function=write>\n<parameter=content>\na\n</parameter>\n</parameter>\n</function>",
        "cannot be told",
    ),
    (
        "a parameter nobody knows swallows none (claude-code#44826)",
        "tags",
        "<function=write>\n<parameter=content>\na\n</content>\n<parameter=path>\nb\n</parameter>\n</function>\n</function>x",
        "",
    ),
    (
        "a closing tag mangled (sglang#27337)",
        "tags",
        "<function=write>\n<parameter=content>\na\n</parameter1>\n</function>",
        "does not end",
    ),
    ("twice the same", "tags", f"<function=weather>\n{TWO}{TWO}</function>", "given twice"),
    ("no name", "python", "[weather('x')]", "no name"),
    ("unpacked", "python", "[weather(**{'city': 'x'})]", "no name"),
    ("no literal", "python", "[weather(city=x)]", "no value"),
    ("bytes", "python", "[bash(command=b'x')]", "no value"),
    ("a quotation cut", "python", "[write(content='print('a', path='b')', path='c')]", ""),
    (
        "unrecoverable (vLLM's pythonic)",
        "python",
        "[write(path='x 'y' 'z), bash(command='p 'q' 'r)]",
        "",
    ),
    ("mismatched (vLLM's pythonic)", "python", "[weather(days=1])]", ""),
    ("infinite (vLLM's pythonic)", "python", "[weather(days=1e999)]", "too large"),
    ("none (vLLM's lfm2)", "python", "[]", "no call"),
]
