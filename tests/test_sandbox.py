"""The template sandbox: what a template may do, that it pays for work before doing it, and that nothing bypasses the
sandbox.
"""

from __future__ import annotations

import time

import pytest
from jinja2.filters import FILTERS as JINJAS
from jinja2.sandbox import ImmutableSandboxedEnvironment

from py_engine.errors import InputError
from py_engine.inputs import template_budget
from py_engine.inputs.sandbox import LimitedEnvironment
from py_engine.inputs.template_budget import Budget, size_of
from py_engine.inputs.template_costs import FILTERS, METHODS
from tests.hostile_templates import HOSTILE
from tests.template_cost import measure_template
from tests.template_fuzz import Grammar

# CPU time of this thread. The limit is 1 s; on an idle machine the worst here takes 0.4.
SECONDS = 3.0
BYTES = 64 << 20


def render(source: str, **values: object) -> str:
    environment = LimitedEnvironment()
    return environment.render_limited(environment.compile_limited(source), values)


@pytest.mark.parametrize(("source", "reason"), HOSTILE, ids=lambda value: value[:60])
def test_hostile_templates_end_soon_and_in_little_memory(source: str, reason: str) -> None:
    found = measure_template(source)
    assert found["error"] and found["seconds"] < SECONDS and found["peak"] < BYTES, (reason, found)


@pytest.mark.parametrize(
    "source",
    [
        "{{ (['a'] * 3000) | sort(attribute='0.' * 2000 ~ '0') | list | length }}",
        "{{ [1] | batch(fill_with=0, linecount=20000000) | list | length }}",
        "{{ raise_exception(['a' * 1000000] * 100) }}",
        "{{ strftime_now(['a' * 1000000] * 100) }}",
        "{{ 5[(['a' * 1000000] * 100):].x }}",
        "{{ ({}[('a' * 1000000,) * 100]).x }}",
    ],
)
def test_what_errors_show_and_paths_reach_is_charged(source: str) -> None:
    found = measure_template(source)
    assert found["error"] and found["seconds"] < SECONDS and found["peak"] < BYTES, found


def test_random_templates_end_soon_and_in_little_memory() -> None:
    """Those that tests_e2e/test_hostile_input.py renders too. To test more: python -m tests.template_fuzz 0 4000."""
    told = []
    for seed in range(40):
        found = measure_template(Grammar(seed).source())
        assert found["seconds"] < SECONDS and found["peak"] < BYTES, (seed, found)
        told.append(found["error"])
    # Otherwise the grammar makes only nonsense, which is refused before it costs anything.
    spent = ("works too long", "builds a text", "builds texts", "beyond what is allowed", "loops")
    assert sum(any(words in text for words in spent) for text in told) > 7


def test_every_filter_has_a_cost() -> None:
    assert set(FILTERS) == {*JINJAS, "tojson"}
    assert set(LimitedEnvironment().filters) == set(FILTERS)
    for kind, methods in METHODS.items():
        assert all(callable(getattr(kind, name, len)) for name in methods)


@pytest.mark.parametrize(
    "expression",
    [
        "'a' | upper ~ 'ß'.upper() ~ 'a b' | title ~ 'ab' | capitalize",
        "'a-b-c'.split('-', 1) ~ 'a b  c'.split() ~ 'a-b-c'.rsplit('-', maxsplit=1) ~ 'a\\nb\\r\\n'.splitlines(true)",
        "' x '.strip() ~ 'xyx'.strip('x') ~ 'xyx'.lstrip('x') ~ '  a ' | trim",
        "'a,b'.partition(',') ~ 'a,b,c'.rpartition(',')[0]",
        "'abcabc'.find('c') ~ 'abcabc'.rfind('c') ~ 'abc'.index('b') ~ 'abc'.startswith(('x', 'a')) ~ 'abc'.count('b')",
        "'-'.join(['a', 'b']) ~ ['a', 1, none] | join('-') ~ [{'x': 1}, {'x': 2}] | join(',', attribute='x')",
        "'aXb'.replace('X', 'YY', 1) ~ 'aXb' | replace('X', 'Z') ~ 'aXb' | replace(new='1', old='X')",
        "'x' | center(9) ~ 'x'.ljust(3) ~ '7'.zfill(3) ~ 'a\\tb'.expandtabs(4) ~ 'a\\nb' | indent(2, true)",
        "'%s and %(a)s' % {'a': 1} ~ '%5.2f|%-4d' % (1.5, 2) ~ '{:>5}{!r}'.format(1, 'x') ~ '%s' | format('y')",
        "[3, 1, 2] | sort(reverse=true) ~ ['b', 'A'] | sort ~ [1, 1, 2] | unique | list ~ [1, 2, 3] | sum",
        "[{'k': 'a', 'v': 1}, {'k': 'b', 'v': 2}] | selectattr('k', 'equalto', 'b') | map(attribute='v') | list",
        "[1, 2, 3, 4] | select('odd') | list ~ [1, 2] | reject('eq', 1) | list ~ ['a'] | map('upper') | first",
        "{'b': 1, 'a': 2} | dictsort ~ {'a': 1} | items | list ~ {'a': 1}.get('x', 'none') ~ {'a': 1}.keys() | list",
        "[1, 2, 3] | batch(2, 0) | list ~ [1, 2, 3] | slice(2) | list ~ 'abc' | reverse ~ [1, 2] | reverse | list",
        "[1, 2, 3][1:] ~ 'abcdef'[::-2] ~ (1, 2, 3)[:-1] ~ [1, 2] + [3] ~ [0] * 3 ~ 'ab' * 2",
        "(1 < 2 < 3) ~ (3 > 2 > 5)",
        "('a' in 'abc') ~ ('x' not in ['y']) ~ ([1] == [1]) ~ ('b' in {'b': 1}) ~ ('a' < 'b')",
        "7 // 2 ~ 7 % 4 ~ 2 ** 10 ~ -3 | abs ~ 2.567 | round(1) ~ ('12' | int + 1) ~ '1.5' | float ~ (7 / 2) ~ (7 - 9)",
        "'<a>' | e ~ ('<b>' | safe) ~ ('<b>' | safe + '<c>') ~ 'a b' | urlencode ~ '<p>x</p>' | striptags",
        "'some words here' | wordwrap(5) ~ 'some words here' | truncate(8, true) ~ 'a b c' | wordcount",
        "{'class': 'x', 'id': none} | xmlattr ~ {'a': [1]} | pprint ~ 12345 | filesizeformat",
        "[] | first is defined ~ undefined_thing | default('d') ~ '' | default('e', true)",
        "[1, 5] | max ~ [1, 5] | min",
        "dict(a=1, b=[2]) ~ cycler(1, 2).next() ~ joiner(',')() ~ range(3) | list ~ range(5)[1:3] | list",
        "[{'a': 1, 'b': 2}, {'a': 1, 'b': 3}] | groupby('a') | map(attribute='list') | list",
        "('x' if [] | map('upper') else 'y') ~ ([1] | map('string') is iterable) ~ (1.0).is_integer()",
    ],
)
def test_what_templates_use_is_as_in_plain_jinja(expression: str) -> None:
    for source in (
        "{{ X }}",
        "{% set t %}{{ X }}{% endset %}{{ t | length }}{{ t }}",
        "{% for i in [1, 2] %}{{ X }}{% endfor %}",
    ):
        source = source.replace("X", expression)
        assert render(source) == ImmutableSandboxedEnvironment().from_string(source).render()


def test_a_long_chat_may_cost_more() -> None:
    """The limits are for templates that make much out of little input."""
    source = (
        "{% for m in messages %}{% set t = m.content | trim %}"
        "{% for i in range(4) %}{{ t ~ '\\n' }}{% endfor %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "hello " * 200}] * 9000
    text = render(source, messages=messages)
    assert len(text) == 9000 * 4 * 1200 > template_budget.MAX_TEXT_CHARS
    lines = "{{ messages[0].content.split('\\n') | length }}"
    assert render(lines, messages=[{"content": "x\n" * 300_000}]) == "300001"
    with pytest.raises(InputError, match="loops"):
        render(source.replace("messages", "range(7000)").replace("m.content", "'x'"))


def test_the_clock_is_the_backstop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "MAX_WORK", 1 << 62)
    monkeypatch.setattr(template_budget, "MAX_TURNS", 1 << 62)
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 0.05)
    begun = time.thread_time()
    with pytest.raises(InputError, match="ran for more than 0.05 seconds"):
        render("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}")
    assert time.thread_time() - begun < 2


def test_sizes_are_those_of_what_would_be_printed() -> None:
    assert size_of("abc") == (1, 3, 0)
    shared = ["abc"] * 10
    assert size_of([shared, {"k": shared}])[:2] == (1 + 2 + 10 + 2 + 10, 60 + 1)
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InputError, match="more than 64 deep"):
        size_of(endless)


def test_a_budget_is_spent_only_once() -> None:
    budget = Budget()
    budget.bytes(template_budget.MAX_BYTES)
    with pytest.raises(InputError, match="40 MiB together"):
        budget.bytes(1)
    environment = LimitedEnvironment()
    template = environment.compile_limited("{{ 'a' * 3000000 }}")
    for _ in range(20):  # each rendering gets the whole limit
        assert len(environment.render_limited(template, {})) == 3_000_000
