"""A conversation as a tree of messages: which path is shown, versions, messages from other tabs, damaged links."""

from __future__ import annotations

import random
from typing import Any

from app.tree import Chat


def message(name: str, parent: str = "", made: str = "", role: str = "user") -> dict[str, Any]:
    return {
        "id": name,
        "parent": parent,
        "made": made or name,
        "role": role,
        "content": f"of {name}",
    }


def shown(chat: Chat) -> str:
    return " ".join(m["id"] for m in chat.messages)


def versions(chat: Chat, name: str) -> str:
    return " ".join(m["id"] for m in chat.versions(chat.find(name)))


def made(*links: str) -> Chat:
    """Messages from "child<parent" each, in the order in which they were made."""
    found = []
    for number, link in enumerate(links):
        name, _, parent = link.partition("<")
        found.append(message(name, parent, f"{number:03}"))
    random.Random(0).shuffle(found)
    return Chat({"id": "x", "title": "", "updated": ""}, found)


def test_the_newest_way_is_shown_until_another_is_chosen() -> None:
    chat = made("q", "a<q", "r<a", "b<q", "c<q")
    assert shown(chat) == "q c" and versions(chat, "a") == "a b c"
    chat.choose(chat.find("a"))
    assert shown(chat) == "q a r"
    chat.choose(chat.find("b"))
    assert shown(chat) == "q b"
    again = Chat(dict(chat.record), chat.all())
    assert shown(again) == "q b", "the record tells it"


def test_the_branch_below_a_version_is_as_it_was_left() -> None:
    chat = made("q", "a<q", "r<a", "s<a", "b<q", "t<b")
    chat.choose(chat.find("r"))
    chat.choose(chat.find("b"))
    assert shown(chat) == "q b t"
    chat.choose(chat.find("a"))
    assert shown(chat) == "q a r"


def test_what_another_tab_adds_moves_nobody_who_is_to_stay() -> None:
    chat = made("q", "a<q", "r<a")
    chat.add([message("b", "q", "9")], stay=True)
    assert shown(chat) == "q a r" and versions(chat, "a") == "a b"
    chat.add([message("s", "r", "9")], stay=True)
    assert shown(chat) == "q a r s", "what follows is shown"
    chat.add([message("c", "q", "99")])
    assert shown(chat) == "q a r s", "it was pinned"
    chat.choose(chat.find("c"))
    assert shown(chat) == "q c"


def test_messages_move_and_go() -> None:
    chat = made("q", "a<q", "r<a", "x<a")
    chat.move(chat.find("x"), "r")
    assert shown(chat) == "q a r x"
    assert [m["id"] for m in chat.before(chat.find("x"))] == ["q", "a", "r"]
    chat.remove(["r"])
    assert "x" in versions(chat, "q"), "what lost its parent stands with the first ones"


def test_damaged_links_hang_nothing() -> None:
    rng = random.Random(1)
    for _ in range(300):
        names = [str(i) for i in range(rng.randrange(1, 8))]
        parents = [*names, "", "gone"]
        found = [message(name, rng.choice(parents), rng.choice("abc")) for name in names]
        record = {"id": "x", "chosen": {rng.choice(parents): rng.choice(parents) for _ in range(3)}}
        chat = Chat(record, found)
        for each in chat.all():
            assert each in chat.versions(each)
            assert len(chat.before(each)) <= len(names)
            chat.choose(each)
            assert len(chat.messages) <= len(names)
        file = chat.as_file()
        assert sorted(m["id"] for m in file["messages"] + file["others"]) == sorted(names)


def test_a_title_follows_the_first_message_unless_the_chat_came_with_one() -> None:
    chat = made("q", "a<q")
    assert chat.title() == "of q"
    chat.record["title"] = "of q"
    chat.add([message("p", "", "9")])
    assert chat.title() == "of p"
    chat.record["title"] = "Named elsewhere"
    assert chat.title() == "Named elsewhere"
    assert Chat({"id": "x"}).title() == "New chat"
