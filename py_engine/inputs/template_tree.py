"""Checks a template for nesting that would make the compiler recurse too deeply, and rewrites it so that its
work is charged: each loop turn, macro call, comparison, slice, list and `~` first asks the environment.

The rewritten template calls the environment's methods that `CHARGED` names (inputs/sandbox.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from py_engine.errors import InputError

MAX_SOURCE_CHARS = 256 << 10  # the largest published templates have some 30,000
# In a row: the lexer takes 300 bytes of memory for each digit of a number.
MAX_DIGITS = 2000
MAX_TOKENS = 8_000  # besides white space; the largest published templates have some 5,000
MAX_BRACKETS = MAX_BLOCKS = MAX_SIGNS = MAX_CHOICES = 24
MAX_TREE_DEPTH = 100  # of the parsed source
NODE_WORK = 60  # nanoseconds
SHORT = 64  # characters of a constant that is compared without asking
CHARGED = ("turn", "concat_text", "compare", "cut", "made")

_OPENING = frozenset("if for macro call filter block with autoescape generation".split())


_LONG_NUMBER = re.compile(rf"[0-9a-fA-F_]{{{MAX_DIGITS + 1}}}")


def check_source(source: str) -> None:
    """Refuse a source for which the lexer would need too much time or memory."""
    if len(source) > MAX_SOURCE_CHARS:
        raise InputError(f"the chat template has more than {MAX_SOURCE_CHARS} characters")
    if _LONG_NUMBER.search(source):
        raise InputError(f"the chat template holds a number of more than {MAX_DIGITS} digits")


def check_tokens(tokens: Iterable[tuple[int, str, str]]) -> None:
    """Refuse, before parsing, nesting that the parser would recurse into: brackets, blocks, signs, inline ifs."""
    count = brackets = blocks = signs = choices = 0
    tag = ""  # the first word of the tag that is open
    for _, kind, value in tokens:
        if kind in ("whitespace", "data"):
            continue
        count += 1
        if kind in ("block_begin", "variable_begin"):
            brackets = signs = choices = 0
            tag = "" if kind == "block_begin" else "{{"
        elif kind == "block_end" and (tag in _OPENING or tag == "set"):
            # `set x = ...` opens nothing: its "=" made it "set=".
            blocks += 1
        elif kind == "name" and not tag:
            tag = value
            if value.startswith("end"):
                blocks -= 1
        elif value == "=" and tag == "set" and not brackets:
            tag = "set="
        elif value in ("(", "[", "{"):
            brackets += 1
        elif value in (")", "]", "}"):
            brackets -= 1
        elif kind == "name" and value == "if":
            choices += 1
        if count > MAX_TOKENS:
            raise InputError(f"the chat template has more than {MAX_TOKENS} words and signs")
        signs = signs + 1 if value in ("-", "+", "not") else 0
        for what, found, most in (
            ("brackets inside brackets", brackets, MAX_BRACKETS),
            ("blocks inside blocks", blocks, MAX_BLOCKS),
            ("signs before one value", signs, MAX_SIGNS),
            ("inline ifs in one tag", choices, MAX_CHOICES),
        ):
            if found > most:
                raise InputError(f"the chat template nests too deeply: more than {most} {what}")


def check_depth(tree: nodes.Node) -> None:
    """Refuse a tree that is too deep, such as a sum of hundreds of terms. Works without recursion."""
    level: list[nodes.Node] = [tree]
    for _ in range(MAX_TREE_DEPTH):
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise InputError(
        f"the chat template nests too deeply: expressions more than {MAX_TREE_DEPTH} deep"
    )


def charge(tree: nodes.Template) -> nodes.Template:
    """The tree, rewritten so that it calls the methods of `CHARGED`."""
    charged: nodes.Template = _Charging().visit(tree)
    assert tree.environment is not None
    charged.set_environment(tree.environment)
    return charged


class _Charging(NodeTransformer):
    """Rewrites the nodes that can make much work or much text."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self._ticking(node)
        if node.test is not None:
            test = nodes.And(_ask("turn", nodes.Const(0), nodes.Const(0)), node.test)
            node.test = test.set_lineno(node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._ticking(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._ticking(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        return self._ticking(node)

    def _ticking(self, node: nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        """The node with a charge at the head of its body, for its own statements and fixed text."""
        work = chars = 0
        for found in _own(node.body):
            work += NODE_WORK
            chars += len(found.data) if isinstance(found, nodes.TemplateData) else 0
        tick = nodes.ExprStmt(_ask("turn", nodes.Const(work), nodes.Const(chars)))
        self.generic_visit(node)
        node.body.insert(0, tick.set_lineno(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _ask("concat_text", *node.nodes).set_lineno(node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        values = [node.expr, *(operand.expr for operand in node.ops)]
        operators = [operand.op for operand in node.ops]
        if "in" not in operators and "notin" not in operators and any(map(_is_short, values)):
            return node
        return _ask("compare", nodes.Const(tuple(operators)), *values).set_lineno(node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        at = node.arg
        if not isinstance(at, nodes.Slice):
            return node
        bounds = [end or nodes.Const(None) for end in (at.start, at.stop, at.step)]
        return _ask("cut", node.node, *bounds).set_lineno(node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._made(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._made(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._made(node, [part for pair in node.items for part in (pair.key, pair.value)])

    def _made(self, node: nodes.Expr, parts: list[nodes.Expr]) -> nodes.Node:
        self.generic_visit(node)
        if all(isinstance(part, nodes.Const) for part in parts):
            return node
        return _ask("made", node).set_lineno(node.lineno)


def _own(body: list[nodes.Node]) -> Iterator[nodes.Node]:
    """The nodes of a body that run once in each of its turns."""
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)):
            continue
        waiting.extend(node.iter_child_nodes())


def _is_short(node: nodes.Expr) -> bool:
    if isinstance(node, nodes.TemplateData):
        return len(node.data) <= SHORT
    return isinstance(node, nodes.Const) and (
        not isinstance(node.value, str) or len(node.value) <= SHORT
    )


def _ask(method: str, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), list(args), [], None, None)
