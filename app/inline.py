"""Markdown inside a block (emphasis, code, links), as trees for public/nodes.mjs. TeX formulas between their
delimiters are shown as they are written, like code: nothing in them is emphasis or an escape.

MicroPython takes about 20 us for one step of a loop, so no loop runs over characters: the parser jumps from one
special mark to the next with str.find.
"""

# Nested quotes, lists, emphasis; deeper ones stay text, because MicroPython's stack is small.
MAX_DEPTH = 7
MAX_LINK = 2000  # characters
MAX_BRACKETS = 16  # pairs in the text of a link
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
MARKS = ("\\", "`", "$", "*", "_", "~~", "[", "http", "&", "\n")
ENTITIES = (
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&amp;", "&"),
    ("&quot;", '"'),
    ("&#39;", "'"),
    ("&nbsp;", "\u00a0"),
)


def inline(text, depth=0):
    """Return the trees of a text with emphasis, code, links."""
    marks = [[mark, text.find(mark)] for mark in MARKS if mark in text]
    if depth > MAX_DEPTH or not marks:
        return [text] if text else []
    out = []
    hopeless: set[str] = set()  # openers without a closing mark from here on
    begin = i = 0
    while True:
        at, kind = len(text), ""
        for mark in marks:
            if 0 <= mark[1] < i:
                mark[1] = text.find(mark[0], i)
            if 0 <= mark[1] < at:
                kind, at = mark
        if not kind:
            break
        tree, first, i = READERS[kind](text, at, depth, hopeless)
        if tree is not None:
            if first > begin:
                out.append(text[begin:first])
            out.append(tree)
            begin = i
    if begin < len(text):
        out.append(text[begin:])
    return out


# Each reader gets the position of a mark and returns (tree or None, start of the tree, position to continue at).


def _escape(text, at, depth, hopeless):
    escaped = text[at + 1 : at + 2]
    if escaped in ("(", "["):
        close = "\\)" if escaped == "(" else "\\]"
        end = -1 if close in hopeless else text.find(close, at + 2)
        if end >= 0:
            return _formula(text[at + 2 : end]), at, end + 2
        hopeless.add(close)
    if escaped and escaped in PUNCTUATION:
        return escaped, at, at + 2
    return None, at, at + 1


def _run(text, at):
    mark = text[at]
    end = at + 1
    while text[end : end + 1] == mark:
        end += 1
    return end - at


def _code(text, at, depth, hopeless):
    size = _run(text, at)
    run = "`" * size
    j = at + size
    while run not in hopeless:
        j = text.find(run, j)
        if j < 0:
            hopeless.add(run)
            break
        length = _run(text, j)
        if length == size:
            body = text[at + size : j].replace("\n", " ")
            if body[:1] == " " and body[-1:] == " " and body.strip():
                body = body[1:-1]
            return ["code", body], at, j + size
        j += length
    return None, at, at + size


def _formula(text):
    return ["code", text.replace("\n", " ").strip()]


def _dollar(text, at, depth, hopeless):
    """Read a formula between two dollar signs. They must touch its text, so that prices are not taken for
    formulas."""
    size = min(2, _run(text, at))
    key = "$" * size
    start = at + size
    end = -1 if key in hopeless else text.find(key, start)
    if end < 0:
        hopeless.add(key)
        return None, at, start
    body, after = text[start:end], text[end + size : end + size + 1]
    loose = body != body.strip() or "\n" in body or body.endswith("\\") or after.isdigit()
    if not body.strip() or size == 1 and loose:
        return None, at, start
    return _formula(body), at, end + size


def _is_word(character):
    return bool(character) and (character > "\x7f" or character.isalpha() or character.isdigit())


def _emphasis(text, at, depth, hopeless):
    mark = text[at]
    size = _run(text, at)
    start = at + size
    opens = text[start : start + 1].strip()
    if mark == "_" and at and _is_word(text[at - 1]):
        opens = ""
    if mark == "~" and size != 2 or size > 3 or not opens:
        return None, at, start
    key = mark * size
    j = start
    while key not in hopeless:
        j = text.find(key, j)
        if j < 0:
            hopeless.add(key)
            break
        length = _run(text, j)
        closes = text[j - 1].strip() and j > start
        if mark == "_" and _is_word(text[j + length : j + length + 1]):
            closes = False
        if closes and (length == size or length == 3):
            end = j + length - size
            inner = inline(text[start:end], depth + 1)
            if size == 1:
                return ["em"] + inner, at, end + 1
            if size == 2:
                return [("del" if mark == "~" else "strong")] + inner, at, end + 2
            return ["strong", ["em"] + inner], at, end + 3
        j += length
    return None, at, start


def _is_web(url):
    """Tell whether a URL is http or https with a host, and hides no part of it."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("http", "https") or not rest or len(url) > MAX_LINK:
        return False
    return not any(c in url for c in ' \t\n\r\\<>"')


def _link(text, at, depth, hopeless):
    close = at
    for _ in range(MAX_BRACKETS + 1):
        if "](" in hopeless:
            break
        close = text.find("]", close + 1)
        if close < 0:
            hopeless.add("](")
            break
        label = text[at + 1 : close]
        if len(label) > MAX_LINK:
            break
        if label.count("[") > label.count("]"):
            continue
        if text[close + 1 : close + 2] != "(":
            break
        end = text.find(")", close)
        while end >= 0 and text[close + 2 : end].count("(") > text[close + 2 : end].count(")"):
            end = text.find(")", end + 1)
            if end - close > MAX_LINK:
                end = -1
        if end < 0:
            break
        url = text[close + 2 : end].strip().split(" ")[0].strip("<>")
        if not _is_web(url):
            break
        if at and text[at - 1] == "!":
            return ["a", url, "Image: " + (label or url)], at - 1, end + 1
        return ["a", url] + (inline(label, MAX_DEPTH) or [url]), at, end + 1
    return None, at, at + 1


def _address(text, at, depth, hopeless):
    if at and _is_word(text[at - 1]):
        return None, at, at + 4
    end = at
    while end < len(text) and text[end] not in ' \t\n<>"`|*':
        end += 1
    while end > at and (
        text[end - 1] in ".,;:!?'_]"
        or (text[end - 1] == ")" and text[at:end].count(")") > text[at:end].count("("))
    ):
        end -= 1
    url = text[at:end]
    if not _is_web(url):
        return None, at, at + 4
    if at and text[at - 1] == "<" and text[end : end + 1] == ">":
        return ["a", url, url], at - 1, end + 1
    return ["a", url, url], at, end


def _entity(text, at, depth, hopeless):
    for entity, character in ENTITIES:
        if text.startswith(entity, at):
            return character, at, at + len(entity)
    return None, at, at + 1


def _break(text, at, depth, hopeless):
    return ["br"], at, at + 1


READERS = {
    "\\": _escape,
    "`": _code,
    "$": _dollar,
    "*": _emphasis,
    "_": _emphasis,
    "~~": _emphasis,
    "[": _link,
    "http": _address,
    "&": _entity,
    "\n": _break,
}
