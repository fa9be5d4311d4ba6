"""Markdown, as models write it, into trees for public/nodes.mjs; it can be fed piece by piece.

Supported: headings, paragraphs, lists, quotes, fenced and indented code, tables, rules; bold, italic, struck, code,
http(s) links. A code block is coloured once it has ended (public/nodes.mjs). HTML stays text, images become links. A
line break in a paragraph is a line break. A text fed in pieces gives the same result as the whole text: a block is
final only when a complete line has begun the next one.
"""

import json

from pyscript.js_modules import nodes

from app.inline import MAX_DEPTH, inline


class Markdown:
    """Shows a growing text in `root`."""

    def __init__(self, root):
        self.root = root
        self.tail = ""  # source from the first block that may still change
        self.settled = 0  # number of final blocks before it, each one child of root
        self.dirty = False

    def feed(self, text):
        """Add text; `render` shows it."""
        self.tail += text
        self.dirty = True

    def render(self, last=False):
        """Show the text so far. `last`: no more text comes."""
        if not self.dirty:
            return
        self.dirty = False
        lines = self.tail.split("\n")
        found = blocks(lines)
        if last:
            _end_fence(found)
        complete = len(lines) if last else len(lines) - 1
        count = 0
        while count + 1 < len(found) and found[count + 1][0] < complete:
            count += 1
        nodes.update(self.root, self.settled, json.dumps([tree for _, tree in found]))
        self.settled += count
        if count:
            self.tail = "\n".join(lines[found[count][0] :])


def _end_fence(found):
    """Mark a code block as ended when the text ends inside it."""
    tree = found[-1][1] if found else [""]
    if tree[0] == "fence":
        tree[3] = True


# ---- blocks


def blocks(lines, depth=0):
    """Return [(first line, tree)] of the blocks in `lines`."""
    found = []
    i = 0
    while i < len(lines):
        text = lines[i].strip()
        if not text:
            i += 1
            continue
        start = i
        indent = _indent(lines[i])
        if _fence(text):
            tree, i = _read_fence(lines, i, indent)
        elif indent >= 4:
            tree, i = _read_indented(lines, i)
        elif _heading(text):
            level = _heading(text)
            tree = [f"h{level}"] + inline(text[level:].strip().rstrip("#").rstrip())
            i += 1
        elif _rule(text):
            tree = ["hr"]
            i += 1
        elif text[0] == ">" and depth < MAX_DEPTH:
            tree, i = _read_quote(lines, i, depth)
        elif depth < MAX_DEPTH and _marker(lines[i]):
            tree, i = _read_list(lines, i, depth)
        elif _table_starts(lines, i):
            tree, i = _read_table(lines, i)
        else:
            tree, i = _read_paragraph(lines, i)
        found.append((start, tree))
    return found


def _indent(line):
    return len(line.replace("\t", "    ")) - len(line.replace("\t", "    ").lstrip())


def _outdent(line, columns):
    """Remove that many columns of indent from a line. A tab counts as four; a tab that is cut leaves spaces."""
    i = 0
    while columns > 0 and line[i : i + 1] in (" ", "\t"):
        columns -= 4 if line[i] == "\t" else 1
        i += 1
    return " " * -columns + line[i:]


def _fence(text):
    """Return the run of backticks or tildes that opens a code block, or ""."""
    for mark in ("`", "~"):
        if text.startswith(mark * 3):
            rest = text.lstrip(mark)
            if mark == "~" or "`" not in rest:
                return text[: len(text) - len(rest)]
    return ""


def _heading(text):
    if text[0] != "#":
        return 0
    level = len(text) - len(text.lstrip("#"))
    return level if level <= 6 and text[level : level + 1] in ("", " ") else 0


def _rule(text):
    bare = text.replace(" ", "")
    return len(bare) >= 3 and bare[0] in "-*_" and not bare.strip(bare[0])


def _marker(line):
    """Return (indent, content column, number or None) of a list item's first line, None for other lines."""
    flat = line.replace("\t", "    ")
    text = flat.lstrip()
    indent = len(flat) - len(text)
    if text[:1] in ("-", "*", "+"):
        width, number = 1, None
    else:
        digits = 0
        while text[digits : digits + 1] in "0123456789" and digits < 9 and digits < len(text):
            digits += 1
        if not digits or text[digits : digits + 1] not in (".", ")"):
            return None
        width, number = digits + 1, int(text[:digits])
    rest = text[width:]
    if rest and rest[0] != " ":
        return None
    space = len(rest) - len(rest.lstrip())
    return indent, indent + width + (space if 1 <= space <= 4 and rest.strip() else 1), number


def _interrupts(line):
    """Tell whether the line ends a paragraph."""
    text = line.strip()
    if not text or _fence(text) or text[0] == ">" or _heading(text) or _rule(text):
        return True
    item = _marker(line)
    return bool(item) and item[2] in (None, 1) and item[1] < len(line.replace("\t", "    "))


def _read_fence(lines, i, indent):
    text = lines[i].strip()
    run = _fence(text)
    language = text[len(run) :].strip().split(" ")[0]
    body = []
    i += 1
    while i < len(lines) and not _closes(lines[i].strip(), run):
        body.append(_outdent(lines[i], indent))
        i += 1
    closed = i < len(lines)
    return ["fence", language, "\n".join(body), closed], i + 1 if closed else i


def _closes(text, run):
    """Tell whether a line ends the code block that `run` began."""
    return text.startswith(run) and not text.strip(run[0])


def _read_indented(lines, i):
    body = []
    while i < len(lines) and (not lines[i].strip() or _indent(lines[i]) >= 4):
        body.append(_outdent(lines[i], 4))
        i += 1
    return ["fence", "", "\n".join(body).rstrip(), False], i


def _read_quote(lines, i, depth):
    inner = []
    while i < len(lines) and lines[i].lstrip()[:1] == ">":
        line = lines[i].lstrip()[1:]
        inner.append(line[1:] if line[:1] == " " else line)
        i += 1
    return ["blockquote"] + [tree for _, tree in blocks(inner, depth + 1)], i


def _read_list(lines, i, depth):
    outer, column, number = _marker(lines[i])
    items = [[lines[i].replace("\t", "    ")[column:]]]
    loose = blank = False
    i += 1
    while i < len(lines):
        line = lines[i]
        if not line.strip():
            blank = True
            items[-1].append("")
            i += 1
            continue
        indent = _indent(line)
        item = _marker(line)
        nested = indent >= column or (item and indent >= outer + 2)
        if (
            not nested
            and item
            and not _rule(line.strip())
            and (item[2] is None) == (number is None)
        ):
            loose = loose or blank
            column = item[1]
            items.append([line.replace("\t", "    ")[column:]])
        elif nested:
            loose = loose or (blank and not item and not _fence(line.strip()))
            items[-1].append(_outdent(line, column))
        elif not blank and not _interrupts(line):
            items[-1].append(line.strip())
        else:
            break
        blank = False
        i += 1
    tree = ["ul"] if number is None else ["ol", number]
    return tree + [_item(item, loose, depth) for item in items], i


def _item(lines, loose, depth):
    if lines[0][:4] in ("[ ] ", "[x] ", "[X] "):
        lines[0] = ("\u2610 " if lines[0][1] == " " else "\u2611 ") + lines[0][4:]
    tree = ["li"]
    for _, inner in blocks(lines, depth + 1):
        if inner[0] == "p" and not loose:
            tree += inner[1:]
        else:
            tree.append(inner)
    return tree


def _cells(line):
    text = line.strip()
    text = text[1:] if text[:1] == "|" else text
    text = text[:-1] if text[-1:] == "|" and text[-2:] != "\\|" else text
    return [cell.strip().replace("\0", "|") for cell in text.replace("\\|", "\0").split("|")]


def _table_starts(lines, i):
    if "|" not in lines[i] or i + 1 >= len(lines) or "-" not in lines[i + 1]:
        return False
    if lines[i + 1].strip().strip("|:- \t"):
        return False
    return len(_cells(lines[i])) == len(_cells(lines[i + 1]))


def _read_table(lines, i):
    sides = []
    for cell in _cells(lines[i + 1]):
        left, right = cell[:1] == ":", cell[-1:] == ":"
        sides.append("center" if left and right else "right" if right else "left")
    head = ["tr"] + _row("th", sides, lines[i])
    body = ["tbody"]
    i += 2
    while i < len(lines) and "|" in lines[i]:
        body.append(["tr"] + _row("td", sides, lines[i]))
        i += 1
    return ["table", ["thead", head], body], i


def _row(tag, sides, line):
    cells = _cells(line) + [""] * len(sides)
    return [[tag, side] + inline(cells[i]) for i, side in enumerate(sides)]


def _read_paragraph(lines, i):
    text = [lines[i].strip()]
    i += 1
    while i < len(lines) and not _interrupts(lines[i]) and not _table_starts(lines, i):
        text.append(lines[i].strip())
        i += 1
    return ["p"] + inline("\n".join(text)), i
