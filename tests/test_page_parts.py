"""Parts of the page that need no browser: code blocks in markdown, drafts, imports. Stand-ins replace PyScript and
the store.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Part = Callable[..., Any]


class NotKept(Exception):
    """As in app/chats.py."""

    def __init__(self, words: str, *, is_file: bool) -> None:
        super().__init__(words)
        self.is_file = is_file


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Part:
    """Import a module of the page afresh. `stand_ins`: name -> what replaces that module."""

    def load(name: str, **stand_ins: Any) -> Any:
        for other, fields in stand_ins.items():
            module = ModuleType(other)
            module.__dict__.update(fields)
            monkeypatch.setitem(sys.modules, other.replace("__", "."), module)
            package, _, attribute = other.rpartition("__")
            if package == "app":
                monkeypatch.setattr(importlib.import_module("app"), attribute, module, False)
        monkeypatch.delitem(sys.modules, "app." + name, False)
        module = importlib.import_module("app." + name)
        monkeypatch.setitem(sys.modules, "app." + name, module)
        return module

    return load


# ---- markdown


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("  ```\n\tfoo\n  ```", "  foo"),
        ("   ```\n  two\n\tfour\n   ```", "two\n four"),
        ("1. x\n\n   ```make\n   all:\n   \tgcc\ta\n   ```", "all:\n\tgcc\ta"),
        ("- ```\n  a\tb\n  ```", "a\tb"),
        ("    a\tb\n\tc\td", "a\tb\nc\td"),
    ],
)
def test_code_loses_nothing_but_the_indent_of_its_block(part: Part, text: str, code: str) -> None:
    markdown = part("markdown", pyscript={}, pyscript__js_modules={"nodes": None})
    (tree,) = [tree for _, tree in markdown.blocks(text.split("\n"))]
    while tree[0] != "fence":
        tree = tree[-1]
    assert tree[2] == code


# ---- drafts


class Chat:
    def __init__(self, name: str, turns: int = 0) -> None:
        self.id, self.turns = name, turns

    def exists(self) -> bool:
        return bool(self.turns)


def test_letters_of_a_new_chat_wait_until_its_draft_is_read(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"": "from before"}
    box = SimpleNamespace(value="")
    attached = SimpleNamespace(pictures=[], show=lambda found: None)

    async def save_draft(name: str, draft: dict[str, Any]) -> None:
        kept[name] = draft["text"]

    async def scenario() -> None:
        module = part(
            "drafts",
            app__chats={"save_draft": save_draft, "DRAFT_OF_NEW": "", "NotKept": NotKept},
            app__dom={"find": lambda name: box},
        )
        drafts, chat = module.Drafts(attached), Chat("a")
        drafts.wait()
        box.value = "new words"
        drafts.written()
        await asyncio.sleep(0.02)
        assert drafts.unsent() is None and kept == {"": "from before"}
        drafts.add(chat, {"text": kept[""], "pictures": []})
        await asyncio.sleep(0.02)
        assert box.value == kept[""] == "from before\nnew words"
        # A message sent right after the last letter: the draft holds it until the message is stored.
        box.value += "!"
        assert drafts.sent(chat) == "" and box.value == ""
        await asyncio.sleep(0.02)
        assert kept == {"": "from before\nnew words!"}
        # A message sent before the draft was read is not the draft. The draft stays for the next new chat.
        drafts.wait()
        box.value = "sent at once"
        assert drafts.sent(chat) is None and box.value == ""

    monkeypatch.setattr(asyncio, "sleep_ms", lambda ms: asyncio.sleep(0.001), raising=False)
    asyncio.run(scenario())


# ---- folders


class Entry:
    """As a drop gives them: a file, or a folder whose entries come one at a time."""

    def __init__(self, name: str, *inside: Entry) -> None:
        self.name, self._left = name, [*inside]
        self.isDirectory = bool(inside)
        self.isFile = not inside

    def createReader(self) -> Entry:
        return self

    def readEntries(self, good: Callable[..., None], bad: object) -> None:
        del bad
        good([self._left.pop()] if self._left else [])

    def file(self, good: Callable[..., None], bad: object) -> None:
        del bad
        good(SimpleNamespace(name=self.name))


def folders_of(part: Part) -> Any:
    return part(
        "folders",
        pyscript={},
        pyscript__ffi={"to_js": list},
        app__dom=dict.fromkeys(("field", "numbers")),
    )


def model_folder() -> Entry:
    deep = Entry("a", Entry("b", Entry("c", Entry("kept.json"), Entry("d", Entry("lost.json")))))
    tops = [
        Entry(name) for name in ("config.json", "model.safetensors", "notes.md", ".hidden.json")
    ]
    return Entry(
        "e5", *tops, Entry("1_Pooling", Entry("config.json")), Entry(".git", Entry("x.json")), deep
    )


KEPT_PATHS = ["1_Pooling/config.json", "a/b/c/kept.json", "config.json", "model.safetensors"]


def test_a_dropped_folder_is_taken_with_its_folders(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = folders_of(part)
    name, files = asyncio.run(folders.from_drop([model_folder()], []))
    assert name == "e5" and sorted(files) == KEPT_PATHS
    assert files["1_Pooling/config.json"] is not files["config.json"]
    monkeypatch.setattr(folders, "MAX_FILES", 2)
    _, files = asyncio.run(folders.from_drop([model_folder()], []))
    assert sorted(files) == ["config.json", "model.safetensors"]
    with pytest.raises(folders.FolderError, match="no(t a)? model folder"):
        asyncio.run(folders.from_drop([Entry("up", model_folder())], []))


def test_a_picked_folder_is_taken_with_its_folders(part: Part) -> None:
    def paths(entry: Entry, above: str) -> list[str]:
        if entry.isFile:
            return [above + entry.name]
        return [path for each in entry._left for path in paths(each, f"{above}{entry.name}/")]

    files = [
        SimpleNamespace(name=path.split("/")[-1], webkitRelativePath=path)
        for path in paths(model_folder(), "")
    ]
    picker = SimpleNamespace(files=SimpleNamespace(length=len(files), item=lambda i: files[i]))
    name, found = folders_of(part).from_input(picker)
    assert name == "e5" and sorted(found) == KEPT_PATHS
    assert {path: f"e5/{path}" for path in found} == {
        path: file.webkitRelativePath for path, file in found.items()
    }


# ---- imports


@pytest.mark.parametrize(
    ("files", "taken", "refused"),
    [
        (["good", "bad", "other"], ["good", "other"], ["bad"]),
        (["bad"], [], ["bad"]),
        (["good", "full", "other"], ["good"], ["full"]),
    ],
)
def test_a_file_that_is_refused_keeps_no_other_one_out(
    part: Part, files: list[str], taken: list[str], refused: list[str]
) -> None:
    async def take_file(name: str) -> dict[str, Any]:
        if name in ("bad", "full"):
            raise NotKept(name, is_file=name == "bad")
        return {"chats": 1, "messages": 2, "there": 1, "first": name, "changes": [name]}

    told: list[str] = []
    imports = part(
        "imports",
        app__chats={"take_file": take_file, "NotKept": NotKept},
        app__hints={"hint": lambda *what: told.append(what[2]), "withdraw": lambda name: None},
    )
    changes, first, errors = asyncio.run(imports.take(files))
    assert (changes, first, [str(error) for error in errors]) == (taken, None, refused)
    assert len(told) == bool(taken)
    assert imports.text_of({"messages": 1, "there": 1}).endswith(
        "1 of the file's messages was here already."
    )
