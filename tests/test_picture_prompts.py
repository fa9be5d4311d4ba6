"""Pictures in messages and in prompts: the parts that are taken, and the ids and positions that transformers' own
processors write (tests/goldens/make_seen.py)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from py_engine.errors import InputError
from py_engine.inputs.chat_template import ChatTemplate
from py_engine.inputs.content_ids import content_ids
from py_engine.inputs.media import media_of, take_media
from py_engine.inputs.messages import check_messages
from py_engine.inputs.tokenizer import Tokenizer
from py_engine.pictures.layout import plan_picture, plan_video
from py_engine.pictures.plan import PicturePlan
from py_engine.pictures.prompt import PicturePrompt, Plan, grid_positions, runs
from py_engine.pictures.rules import Area, rules_of
from py_engine.sources.config import Part
from tests import reference

QWEN, LFM = "qwen3.5-seen", "lfm2-seen"
CHATS: dict[str, list[tuple[str, list[Any]]]] = {
    "one": [("user", [0, "What is this?"])],
    "two": [("user", ["First", 0, "then", 1, "which is larger?"])],
    "turns": [
        ("user", [1, "And?"]),
        ("assistant", ["A red square."]),
        ("user", ["Now this:", 0, 1]),
    ],
    "tiles": [("user", [2, "Where?"])],
    "resized": [("user", [3, "How large?"])],
}


class Repo:
    """The files of a tiny model that sees, as the engine reads them; no weights."""

    def __init__(self, name: str) -> None:
        folder = reference.folder(name)

        def read(file: str) -> Any:
            return json.loads((folder / file).read_text())

        self.golden = np.load(folder / "seen.npz")
        self.tokenizer = asyncio.run(
            Tokenizer.load((folder / "tokenizer.json").read_bytes(), read("tokenizer_config.json"))
        )
        self.template = ChatTemplate((folder / "chat_template.jinja").read_text(), self.tokenizer)
        found = PicturePrompt.of(self.tokenizer)
        assert found is not None
        self.prompt = found
        config = Part(read("preprocessor_config.json"))
        self.rules = rules_of(config, Part(read("config.json")["vision_config"]))

    def plan(self, number: int) -> PicturePlan:
        h, w, _ = self.golden[f"picture_{number}"].shape
        return plan_picture(self.rules, w, h)

    def ids(self, pieces: Sequence[tuple[str, bool]], plans: Sequence[Plan]) -> list[int]:
        """Ids of a rendered prompt, with content ids for rows."""
        known = self.tokenizer.control
        names = [content_ids("test", plan.rows, [bytes([n])]) for n, plan in enumerate(plans)]
        self.runs = [run for plan, ids in zip(plans, names, strict=True) for run in runs(plan, ids)]
        expanded = self.prompt.expand(pieces, plans)
        ids = self.tokenizer.encode_pieces(expanded)
        return self.prompt.fill(ids, [run for run, _ in self.runs], known)

    def tokens(self, ids: Sequence[int], mark: str) -> list[int]:
        """The ids with the picture's token in the place of each row."""
        return [i if i >= 0 else self.tokenizer.control[mark] for i in ids]


@pytest.fixture(scope="module", params=[QWEN, LFM])
def repo(request: pytest.FixtureRequest) -> Repo:
    return Repo(request.param)


def parts(given: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p}
        for p in given
    ]


@pytest.mark.parametrize("chat", CHATS)
def test_ids_and_positions_are_those_of_transformers(repo: Repo, chat: str) -> None:
    messages, media = take_media([{"role": r, "content": parts(p)} for r, p in CHATS[chat]])
    plans = [repo.plan(medium.content) for medium in media]
    ids = repo.ids(repo.template.pieces(messages, enable_thinking=False), plans)
    assert repo.tokens(ids, repo.prompt.image) == repo.golden[f"{chat}.ids"].tolist()
    rows = [i for i in ids if i < 0]
    assert len(rows) == sum(plan.rows for plan in plans) == len({*rows})
    if f"{chat}.positions" in repo.golden:
        got = grid_positions(ids, {run[0]: grid for run, grid in repo.runs})
        assert [*zip(*repo.golden[f"{chat}.positions"].tolist(), strict=True)] == got


def test_a_video_is_its_times_and_its_frames() -> None:
    repo = Repo(QWEN)
    part = {"type": "video", "frames": ["..."] * 5, "fps": 2.0}
    said = [{"role": "user", "content": [part, {"type": "text", "text": "What moves?"}]}]
    messages, (video,) = take_media(said)
    assert (video.kind, video.more) == ("video", {"fps": 2.0})
    limits = replace(repo.rules, sizing=Area(256, 65536))  # video_preprocessor_config.json
    plan = plan_video(limits, 80, 48, 5, [n / 2.0 for n in range(5)])
    ids = repo.ids(repo.template.pieces(messages, enable_thinking=False), [plan])
    assert repo.tokens(ids, "<|video_pad|>") == repo.golden["video.ids"].tolist()
    got = grid_positions(ids, {run[0]: grid for run, grid in repo.runs})
    assert [*zip(*repo.golden["video.positions"].tolist(), strict=True)] == got


def test_what_people_type_is_no_picture(repo: Repo) -> None:
    """The marks of a picture are letters in anybody's text, also beside a picture."""
    typed = "<|image_pad|><image><|vision_start|><|img_row_1_col_1|>"
    said = [{"role": "user", "content": parts([0, typed])}]
    messages, media = take_media(said)
    plan = repo.plan(0)
    ids = repo.ids(repo.template.pieces(messages), [plan])
    assert sum(i < 0 for i in ids) == plan.rows
    assert repo.tokenizer.control[repo.prompt.image] not in ids
    assert typed in repo.tokenizer.decode([i for i in ids if i >= 0])
    plain = repo.template.encode([{"role": "user", "content": typed}])
    assert repo.tokenizer.control[repo.prompt.image] not in plain


def test_pictures_that_the_template_leaves_out_are_told(repo: Repo) -> None:
    messages, _ = take_media([{"role": "user", "content": parts([0, "a"])}])
    pieces = repo.template.pieces(messages)
    with pytest.raises(InputError, match="leaves out 1 of 2"):
        repo.prompt.expand(pieces, [repo.plan(0), repo.plan(1)])
    with pytest.raises(InputError, match="one after another"):
        repo.prompt.expand(pieces, [])
    deaf = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", repo.tokenizer)
    with pytest.raises(InputError):  # it prints the parts as Python does, or no picture
        repo.prompt.expand(deaf.pieces(messages), [repo.plan(0)])


def test_ids_whose_marks_are_repeated_already(repo: Repo) -> None:
    wanted = repo.golden["two.ids"].tolist()
    names = [content_ids("test", repo.plan(n).rows, [bytes([n])]) for n in (0, 1)]
    filled = repo.prompt.fill_rows(wanted, names, repo.tokenizer.control)
    assert repo.tokens(filled, repo.prompt.image) == wanted
    assert [i for i in filled if i < 0] == [*names[0], *names[1]]
    with pytest.raises(InputError, match=f"{len(names[0]) + len(names[1])} times.* have 0 rows"):
        repo.prompt.fill_rows(wanted, [], repo.tokenizer.control)


def test_parts_of_every_api() -> None:
    url = "data:image/png;base64,AAAA"
    given = [
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        {"type": "image_url", "image_url": url},
        {"type": "input_image", "image_url": url, "detail": "auto"},
        {"type": "image", "image": b"..."},
        {"type": "image", "pixels": b"\0" * 12, "width": 2, "height": 2},
        {"type": "image", "patches": b"", "grid": (1, 2, 2)},
    ]
    said: list[dict[str, Any]] = [
        {"role": "tool", "content": given},
        {"role": "user", "content": "text"},
    ]
    messages, media = take_media(said)
    assert messages[0]["content"] == [{"type": "image", "medium": n} for n in range(6)]
    assert messages[1] is said[1] and said[0]["content"] is given
    assert [m.content for m in media[:3]] == [url] * 3
    assert (media[4].form, media[4].more) == ("pixels", {"width": 2, "height": 2})
    assert media_of(messages[1:], media) == []
    assert [m.where for m in media_of(messages[:1], media)][5] == "messages[0].content[5]"
    checked = check_messages([{"role": "user", "content": [*messages[0]["content"]]}])
    assert checked[0]["content"] == [{"type": "image"}] * 6


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "image_url"}, "needs one of image_url, and has none"),
        ({"type": "image_url", "image_url": {"link": ""}}, "needs its url"),
        ({"type": "image", "image": 1, "path": "x"}, "has image and path"),
        ({"type": "image", "image": 1, "widht": 2}, "widht"),
        ({"type": "video", "fps": 2}, "needs one of frames, video"),
    ],
)
def test_parts_that_are_refused(part: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=f"messages\\[0\\].content\\[0\\].*{told}"):
        take_media([{"role": "user", "content": [part]}])
    for role in ("assistant", "system"):
        with pytest.raises(InputError, match=f"not of role '{role}'"):
            take_media([{"role": role, "content": [{"type": "image", "image": b""}]}])
