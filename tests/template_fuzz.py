"""Random templates from a grammar of filters, methods, operators and statements, with large sizes.

    python -m tests.template_fuzz FIRST LAST    cost of the templates of these seeds: seconds, MiB, outcome

It prints a line for each template that takes more than half of a limit, and the worst of all at the end.
"""

from __future__ import annotations

import json
import random
import re
import sys

from tests.template_cost import measure_template

PRELUDE = (
    "{% set t = 'aß<\\n &😀' * 2000 %}{% set u = 'ab ' * 9000 %}{% set l = range(3000) | list %}"
    "{% set d = {'a': t, 'b': l, 'c': {'a': [t, u]}} %}{% set n = namespace(x=t, y=l) %}"
)
NUMBERS = ("0", "1", "2", "3", "7", "50", "999", "9999", "-1", "i", "99999999", "10**60", "0.5")
TEXTS = (
    "'a'",
    "' '",
    "'ab'",
    "'\\n'",
    "'%s'",
    "'%9999s'",
    "'%(a)s'",
    "'{0}{0}'",
    "'{:>9999}'",
    "'<&>'",
    "''",
)
# How to make each kind of value. T, L, N and A stand for a text, a list, a number and any value.
WAYS = {
    "T": (
        *("t", "u", "n.x", "n.x", "messages[0].content"),
        *(
            "(T + T)",
            "(T * N)",
            "(N * T)",
            "(T ~ A ~ T)",
            "(T % A)",
            "(T % (A, A))",
            "(T | safe + T)",
        ),
        *(
            "A | string",
            "A | tojson",
            "A | tojson(indent=N)",
            "A | tojson(separators=(T, T))",
            "A | pprint",
        ),
        *(
            "L | join",
            "L | join(T)",
            "T.join(L | map('string'))",
            "T | join(T)",
            "(A ~ '')",
            "d | xmlattr",
        ),
        *(
            "T | upper",
            "T.title()",
            "T.casefold()",
            "T | capitalize",
            "T | title",
            "T | e",
            "T | forceescape",
        ),
        *(
            "T | center(N)",
            "T.ljust(N)",
            "T.rjust(N, 'x')",
            "T.zfill(N)",
            "T.expandtabs(N)",
            "T | indent(N)",
        ),
        *(
            "T | indent(T)",
            "T | indent(N, true, true)",
            "T | wordwrap(N)",
            "T | wordwrap(N, wrapstring=T)",
        ),
        *(
            "T | replace(T, T)",
            "T.replace(T, T)",
            "T | truncate(N, true, T)",
            "T | trim(T)",
            "T.strip(T)",
        ),
        *(
            "T.removeprefix(T)",
            "T | urlize",
            "T | striptags",
            "T | urlencode",
            "d | urlencode",
            "T.swapcase()",
        ),
        *(
            "T[N:]",
            "T[::-1]",
            "T[:N]",
            "T | format(A)",
            "'%*d' | format(N, N)",
            "T.format(A, A)",
            "T.lstrip()",
        ),
        *(
            "'{:{}}'.format(T, N)",
            "'{0[0]}{0}'.format(L)",
            "L | first | string",
            "T | reverse | join(T)",
        ),
        *(
            "L | map('upper') | join(T)",
            "L | map('replace', T, T) | join",
            "L | map('center', N) | join",
        ),
    ),
    "L": (
        *(
            "l",
            "l",
            "n.y",
            "n.y",
            "[A, A]",
            "(A, A, A)",
            "[A, n.y, n.y]",
            "(L + L)",
            "(L * N)",
            "L[N:]",
            "L[::-1]",
        ),
        *(
            "T.split(T)",
            "T.split()",
            "T.rsplit(T)",
            "T.partition(T)",
            "T.rpartition(T)",
            "T.splitlines()",
        ),
        *(
            "T | list",
            "L | list",
            "L | reverse | list",
            "L | unique | list",
            "L | sort",
            "L | sort(true)",
        ),
        *(
            "L | batch(N) | list",
            "L | batch(N, A) | list",
            "L | slice(N) | list",
            "L | map('string') | list",
        ),
        *(
            "L | map('tojson') | list",
            "L | map('upper') | list",
            "L | select('in', L) | list",
            "d | items | list",
        ),
        *(
            "L | reject('in', T) | list",
            "L | map('length') | list",
            "d | dictsort",
            "d.items() | list",
            "[d, d]",
        ),
        *(
            "L | groupby(N)",
            "L | map('list') | list",
            "L | select | list",
            "range(N) | list",
            "L | sum(start=L)",
        ),
        *(
            "L | map(attribute=N) | list",
            "L | map('default', A) | list",
            "dict(a=A, b=A) | items | list",
        ),
    ),
    "N": (
        *NUMBERS,
        *(
            "L | length",
            "T | length",
            "T.count(T)",
            "T.find(T)",
            "T.rfind(T)",
            "(N + N)",
            "(N * N)",
            "(N ** N)",
        ),
        *(
            "(N // N)",
            "(N % N)",
            "L | sum",
            "T | int",
            "T | float",
            "L.count(A)",
            "T | wordcount",
            "N | round(N)",
        ),
        *(
            "(T in T) | int",
            "(A in L) | int",
            "(A == A) | int",
            "(L == L) | int",
            "(L < L) | int",
            "(T < T) | int",
        ),
        *(
            "T.startswith(T) | int",
            "N | abs",
            "(A is in L) | int",
            "(A is eq A) | int",
            "T.isalpha() | int",
        ),
    ),
    "A": (
        "T",
        "T",
        "L",
        "L",
        "N",
        "d",
        "{'a': A, 'b': A}",
        "d.c",
        "L | first",
        "L | last",
        "L | max",
        "L | random",
    ),
}


class Grammar:
    """The grammar, with one random source."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def source(self) -> str:
        """A whole template."""
        return PRELUDE + "".join(self._statement(3) for _ in range(self._random.randint(2, 8)))

    def _statement(self, depth: int) -> str:
        kind = self._random.random()
        if kind < 0.3 or depth == 0:
            return "{{ " + self._value("A") + " }}"
        if kind < 0.6:
            name, letter = self._random.choice([("n.x", "T"), ("n.y", "L"), ("t", "T"), ("l", "L")])
            return "{% set " + name + " = " + self._value(letter) + " %}"
        inner = "".join(self._statement(depth - 1) for _ in range(self._random.randint(1, 3)))
        if kind < 0.85:
            over = self._random.choice(["range(30)", "range(300)", "range(9999)", self._value("L")])
            test = self._random.choice(["", "", " if " + self._value("A", 2)])
            return "{% for i in " + over + test + " %}" + inner + "{% endfor %}"
        if kind < 0.9:
            return "{% set t %}" + inner + "{% endset %}"
        if kind < 0.95:
            call = "{{ f(" + self._value("A") + ", *" + self._value("L", 1) + ") }}"
            return "{% macro f(x) %}" + inner + "{% set n.y = varargs %}{% endmacro %}" + call
        return "{% filter upper %}" + inner + "{% endfilter %}"

    def _value(self, kind: str, depth: int = 4) -> str:
        if kind == "T" and (depth <= 0 or self._random.random() < 0.2):
            return self._random.choice(TEXTS + ("t", "u", "n.x"))
        if depth <= 0:
            return self._random.choice(
                {"L": ("l", "n.y"), "N": NUMBERS[:9], "A": ("t", "l", "d")}[kind]
            )
        way = self._random.choice(WAYS[kind])
        made = re.sub(r"\b[TLNA]\b", lambda match: self._value(match[0], depth - 1), way)
        return f"({made})"


def main() -> None:
    """Measure a range of seeds."""
    slowest, largest = 0.0, 0
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        found = measure_template(Grammar(seed).source())
        slowest, largest = max(slowest, found["seconds"]), max(largest, found["peak"])
        if found["seconds"] > 0.5 or found["peak"] > 32 << 20:
            print(seed, json.dumps(found), flush=True)
    print(f"worst: {slowest:.2f} s, {largest >> 20} MiB")


if __name__ == "__main__":
    main()
