"""Pictures in chats, end to end on tiny models that see: transformers' logits and greedy text
(tests/goldens/make_seen.py), what is not run again, sessions, stops, losses of the device, and what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from py_engine.cli.pictures import pictures
from py_engine.encode.tower import TowerRunner
from py_engine.errors import ContextError, InputError
from py_engine.host.gpu import Gpu
from py_engine.serve.engine import Engine
from py_engine.tasks.features import FeaturesRequest
from tests import reference
from tests.conftest import Runner
from tests.test_cli import cli, last_line
from tests.test_device_loss import Rig, devices, rig  # noqa: F401  (fixtures)
from tests.test_picture_prompts import CHATS, LFM, QWEN, parts


@pytest.fixture(scope="module")
def gpu(wgpu: Gpu) -> Gpu:
    """One host is enough: towers and resizing have kernel tests of their own on both."""
    return wgpu


class Model:
    """A loaded model that sees, with its golden values; counts what its tower is asked for."""

    def __init__(self, run: Runner, gpu: Gpu, name: str, **options: Any) -> None:
        self.run, self.name = run, name
        self.golden = np.load(reference.folder(name) / "seen.npz")
        options = {"dtype": "f32", "context": 512, "self_check": False, **options}
        self.engine: Engine = run(Engine.load(str(reference.folder(name)), gpu=gpu, **options))
        vision = self.loaded.vision
        assert vision is not None
        self.towers = 0
        rows = vision.rows

        async def counted(*given: Any) -> Any:
            self.towers += 1
            return await rows(*given)

        vision.rows = counted

    @property
    def loaded(self) -> Any:
        return self.engine._loaded

    def picture(self, number: int) -> np.ndarray:
        return self.golden[f"picture_{number}"]

    def messages(self, chat: str) -> list[dict[str, Any]]:
        return [{"role": role, "content": self.parts(given)} for role, given in CHATS[chat]]

    def parts(self, given: Sequence[Any]) -> list[dict[str, Any]]:
        return parts([p if isinstance(p, str) else self.picture(p) for p in given])

    def chat(self, messages: Sequence[Mapping[str, Any]], count: int = 32, **options: Any) -> Any:
        options = {"temperature": 0.0, "ignore_eos": True, "enable_thinking": False, **options}

        async def ask() -> Any:
            return await self.engine.chat(messages, max_tokens=count, **options)

        return self.run(ask())

    def forget(self) -> None:
        self.loaded.decoder.prefix.forget()
        self.towers = 0


@pytest.fixture(scope="module", params=[QWEN, LFM])
def model(request: pytest.FixtureRequest, run: Runner, gpu: Gpu) -> Iterator[Model]:
    made = Model(run, gpu, request.param)
    yield made
    run(made.engine.close())


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("chat", CHATS)
def test_logits_and_greedy_text_are_those_of_transformers(model: Model, chat: str) -> None:
    ids = model.golden[f"{chat}.ids"].tolist()
    pictures = [model.picture(p) for _, given in CHATS[chat] for p in given if isinstance(p, int)]
    got = model.run(model.engine.logits(ids, images=pictures))
    # torchvision, which resizes for LFM2-VL's processor, rounds otherwise than Pillow: a step of 255 here and there.
    most = 1e-4 if (chat, model.name) == ("resized", LFM) else 1e-6
    assert reference.nmse(np.asarray(got), model.golden[f"{chat}.logits"]) < most
    model.forget()
    answer = model.chat(model.messages(chat))
    assert model.golden[f"{chat}.margins"].min() > 1e-3
    assert answer.tokens == model.golden[f"{chat}.tokens"].tolist()
    image = model.loaded.tokenizer.control[PICTURE_TOKEN[model.name]]
    assert answer.image_tokens == ids.count(image)
    assert answer.prompt_tokens == len(ids)


PICTURE_TOKEN = {QWEN: "<|image_pad|>", LFM: "<image>"}


def test_patches_with_their_grid(model: Model) -> None:
    """What transformers' image processor makes of the first picture, as an array and as bytes."""
    patches = model.golden["patches_0"]
    grid = [1, *model.golden["grid_0"][0][-2:].tolist()]
    patches = patches.reshape(-1, patches.shape[-1])[: grid[1] * grid[2]]
    ids = model.golden["one.ids"].tolist()
    for given in (patches, patches.tobytes()):
        got = model.run(model.engine.logits(ids, images=[{"patches": given, "grid": grid}]))
        assert reference.nmse(np.asarray(got), model.golden["one.logits"]) < 1e-6
    with pytest.raises(InputError, match="patches have"):
        model.run(model.engine.logits(ids, images=[{"patches": patches[:-1], "grid": grid}]))
    with pytest.raises(InputError, match="begins with 1"):
        model.run(model.engine.logits(ids, images=[{"patches": patches, "grid": [2, 3, 5]}]))

    async def describe() -> Any:
        return await model.engine.describe_image(patches=patches, grid=grid, max_tokens=2)

    assert model.run(describe()).image_tokens == grid[1] * grid[2] // 4


def test_video(run: Runner, model: Model) -> None:
    frames = [np.roll(model.picture(0), 8 * n, 1) for n in range(5)]
    part = {"type": "video", "frames": frames, "fps": 2.0}
    said = [{"role": "user", "content": [part, {"type": "text", "text": "What moves?"}]}]
    if model.name == LFM:
        with pytest.raises(InputError, match="no videos"):
            model.chat(said)
        return
    model.forget()
    answer = model.chat(said)
    assert model.golden["video.margins"].min() > 1e-3
    assert answer.tokens == model.golden["video.tokens"].tolist()
    for wrong, told in (
        ({**part, "fps": 0}, "fps=0"),
        ({**part, "frames": [*frames[:2], model.picture(1)]}, "frames\\[2\\] has 32 x 32"),
        ({**part, "frames": frames[:1]}, "1 frames"),
        ({**part, "frames": b"..."}, "list of pictures"),
    ):
        with pytest.raises(InputError, match=told):
            model.chat([{"role": "user", "content": [wrong]}])


def test_a_follow_up_question_runs_no_row_of_a_picture_again(model: Model) -> None:
    first = model.messages("two")
    model.forget()
    answer = model.chat(first, 4)
    assert (model.towers, answer.cached_tokens) == (2, 0)
    more = [
        *first,
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": "And now?"},
    ]
    follow = model.chat(more, 4)
    rows = follow.image_tokens
    assert rows == answer.image_tokens > 0 and model.towers == 2
    # All rows of both pictures are among the tokens that were not run again.
    assert (
        follow.cached_tokens > rows and model.loaded.decoder.prefilled < follow.prompt_tokens - rows
    )
    # Another picture of the same size is another prompt, though its ids in transformers are the same.
    other = [*more]
    other[0] = {"role": "user", "content": [*more[0]["content"]]}
    other[0]["content"][1] = {"type": "image", "image": 255 - model.picture(0)}
    changed = model.chat(other, 4)
    assert model.towers == 4 and changed.cached_tokens < changed.image_tokens
    # The same pixels in another shape are told apart, too.
    model.forget()
    tall = model.picture(0).reshape(model.picture(0).shape[1], -1, 3)
    model.chat([{"role": "user", "content": parts([model.picture(0), "?"])}], 2)
    assert model.chat([{"role": "user", "content": parts([tall, "?"])}], 2).cached_tokens < 10


def test_another_question_about_a_picture_runs_no_row_of_it_again(model: Model) -> None:
    """It begins a conversation of its own. A recurrent state is kept behind the picture."""
    model.forget()
    first = model.chat([{"role": "user", "content": parts([model.picture(0), "What is it?"])}], 3)
    other = [{"role": "user", "content": parts([model.picture(0), "Where was it taken?"])}]
    second = model.chat(other, 6)
    assert model.towers == 1
    assert second.cached_tokens >= second.image_tokens == first.image_tokens > 0
    model.forget()
    assert model.chat(other, 6).tokens == second.tokens


def test_every_way_to_give_a_picture_is_the_same_picture_to_the_model(
    model: Model, tmp_path: Path
) -> None:
    pixels = model.picture(0)
    data = png(pixels)
    (tmp_path / "a.png").write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    h, w, _ = pixels.shape
    ways: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_image", "image_url": url},
        {"type": "image", "image": data},
        {"type": "image", "path": tmp_path / "a.png"},
        {"type": "image", "image": Image.fromarray(pixels)},
        {"type": "image", "pixels": pixels.tobytes(), "width": w, "height": h},
        {"type": "image", "pixels": pixels},
    ]
    wanted = model.golden["one.tokens"].tolist()[:4]
    for way in ways:
        model.forget()
        question = {"type": "text", "text": "What is this?"}
        assert model.chat([{"role": "user", "content": [way, question]}], 4).tokens == wanted
        assert model.towers == 1


def test_sessions(model: Model, stores: Path) -> None:
    """A restored session knows its pictures by their content; no tower runs for it."""
    first = model.messages("one")
    model.forget()
    answer = model.chat(first, 6)
    more = [
        *first,
        {"role": "assistant", "content": answer.text},
        {"role": "user", "content": "So?"},
    ]
    wanted = model.chat(more, 6)
    model.forget()
    model.chat(first, 6)
    model.run(model.engine.save_session("seen"))
    model.forget()
    model.run(model.engine.restore_session("seen"))
    got = model.chat(more, 6)
    assert (got.tokens, model.towers) == (wanted.tokens, 0)
    assert got.cached_tokens >= got.image_tokens


def test_a_stop_while_the_tower_runs(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No further picture is looked at, the answer is empty, and the next one is whole."""
    model.forget()
    vision = model.loaded.vision
    rows = vision.rows

    async def ask() -> Any:
        generation = model.engine.chat(model.messages("two"), max_tokens=4, temperature=0.0)

        async def stopped(*given: Any) -> Any:
            generation.stop()
            return await rows(*given)

        monkeypatch.setattr(vision, "rows", stopped)
        return await generation

    answer = model.run(ask())
    assert (answer.finish_reason, answer.tokens, answer.cached_tokens) == ("abort", [], 0)
    monkeypatch.undo()
    assert model.chat(model.messages("two")).tokens == model.golden["two.tokens"].tolist()
    assert model.towers == 3


def test_a_damaged_file_is_told_and_changes_nothing(model: Model) -> None:
    data = png(model.picture(0))
    bad = bytearray(data)
    bad[60:-20] = bytes(len(bad) - 80)  # the header is whole, what follows is not
    for given, told in ((bytes(bad), "content\\[0\\]"), (data[:-30], "ends early|damaged")):
        with pytest.raises(InputError, match=told):
            model.chat([{"role": "user", "content": [{"type": "image", "image": given}]}], 2)
    for part, told in (
        ({"type": "image", "path": "/nowhere.png"}, "no file"),
        ({"type": "image_url", "image_url": "https://a.example/b.png"}, "fetches nothing"),
        ({"type": "image", "image": data, "grid": [1, 2, 2]}, "grid belongs to patches"),
    ):
        with pytest.raises(InputError, match=told):
            model.chat([{"role": "user", "content": [part]}], 2)
    assert model.chat(model.messages("one")).tokens == model.golden["one.tokens"].tolist()


def test_windows_count_pictures(model: Model) -> None:
    """The oldest turns go, with their pictures. A newest turn that does not fit is told with numbers."""
    model.forget()
    turn: list[dict[str, Any]] = [
        {"role": "user", "content": parts([model.picture(0), "?"])},
        {"role": "assistant", "content": "Yes."},
    ]
    many = [*turn * 20, {"role": "user", "content": parts([model.picture(1), "And this?"])}]
    tokens = model.engine.count_tokens(many, enable_thinking=False)
    assert tokens > 512
    answer = model.chat(many, 8)
    assert answer.dropped is not None and 0 in answer.dropped.messages
    kept = [m for n, m in enumerate(many) if n not in answer.dropped.messages]
    assert answer.prompt_tokens == model.engine.count_tokens(kept, enable_thinking=False)
    assert answer.dropped.tokens == tokens - answer.prompt_tokens
    assert answer.image_tokens > 12 and model.towers == 2  # of equal pictures one is looked at
    with pytest.raises(ContextError, match=r"of pictures\).* the context of 512"):
        model.chat([{"role": "user", "content": parts([model.picture(0)] * 40)}], 8)


def test_describe(model: Model) -> None:
    async def describe(**given: Any) -> Any:
        return await model.engine.describe_image(max_tokens=4, temperature=0.0, **given)

    model.forget()
    got = model.run(describe(pixels=model.picture(0)))
    said = [{"role": "user", "content": parts([model.picture(0), "Describe this image."])}]
    assert got.tokens == model.chat(said, 4, ignore_eos=None).tokens and model.towers == 1
    one = model.run(describe(image=model.picture(0), prompt="What is this?"))
    assert one.tokens == model.golden["one.tokens"].tolist()[:4]
    for wrong, told in (
        ({}, "none of them"),
        ({"image": b"", "pixels": b""}, "image and pixels"),
        ({"image": model.picture(0), "prompt": ""}, "prompt is empty"),
        ({"image": 5}, "give a file's bytes"),
    ):
        with pytest.raises(InputError, match=told):
            model.run(describe(**wrong))


def test_features_of_pixels(model: Model) -> None:
    """The rows of pixels are those of the patches that transformers makes of them; tiles come one after another."""
    patches = model.golden["patches_0"]
    grid = [1, *model.golden["grid_0"][0][-2:].tolist()]
    patches = patches.reshape(-1, patches.shape[-1])[: grid[1] * grid[2]]

    def rows(**given: Any) -> np.ndarray:
        async def ask() -> Any:
            return await model.engine.ask(FeaturesRequest(**given))

        found = model.run(ask())
        return np.asarray(found.features).reshape(found.rows, found.dimensions)

    wanted = rows(patches=patches, grid=grid)
    for got in (rows(pixels=model.picture(0)), rows(image=png(model.picture(0)))):
        assert got.shape == wanted.shape and reference.nmse(got, wanted) < 1e-10
    tiled = rows(pixels=model.picture(2))
    assert len(tiled) == sum(h * w // 4 for *_, h, w in model.golden["grid_2"].tolist())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "none of them"),
        ({"patches": patches}, "need their grid"),
        ({"image": b"", "pixels": b""}, "image and pixels"),
        ({"pixels": model.picture(0), "grid": grid}, "grid belongs to patches"),
    ]
    for given, told in wrong:
        with pytest.raises(InputError, match=told):
            rows(**given)


def test_the_command_line(tmp_path: Path) -> None:
    """Pixels and patches in .npy files."""
    golden, folder = np.load(reference.folder(QWEN) / "seen.npz"), str(reference.folder(QWEN))
    pixels, patches, out = (str(tmp_path / f"{name}.npy") for name in ("p", "q", "out"))
    np.save(pixels, golden["picture_0"])
    np.save(patches, golden["patches_0"])
    np.save(tmp_path / "second.npy", golden["picture_1"])
    ids = ",".join(map(str, golden["two.ids"].tolist()))
    cli(
        "logits", folder, "--ids", ids, "--image", patches, "--grid", "1,6,10",
        "--image", str(tmp_path / "second.npy"), "--out", out, "--dtype", "f32", "--host", "wgpu",
    )  # fmt: skip
    assert reference.nmse(np.load(out), golden["two.logits"]) < 1e-6
    words = ("--max-tokens", "2", "--host", "wgpu", "--json")
    told = last_line(cli("describe", folder, pixels, *words))
    assert told["image_tokens"] == 15 and len(told["tokens"]) == 2
    for path, grids, error in (
        (pixels, ["1,6,10"], "belongs to patches"),
        (patches, None, "patches need --grid"),
        (patches, ["1,6,9"], "is not of the 60 patches"),
        (patches, ["6,10"], "give frames, rows and columns"),
        (str(tmp_path / "none.png"), None, "no such file"),
        (out, None, "give uint8 pixels"),
    ):
        with pytest.raises(InputError, match=error):
            pictures([path], "IMAGE", grids)


def test_models_that_see_nothing_say_so(run: Runner, gpu: Gpu) -> None:
    """A text model, and one whose tower is left out."""
    said = [{"role": "user", "content": parts([np.zeros((32, 32, 3), np.uint8)])}]
    cases: list[tuple[str, dict[str, Any]]] = [("qwen2-mlx4-g64", {}), (LFM, {"vision": "off"})]
    for name, options in cases:
        engine = run(
            Engine.load(
                str(reference.folder(name)), gpu=gpu, context=64, self_check=False, **options
            )
        )

        async def ask(engine: Engine = engine) -> Any:
            return await engine.chat(said)

        with pytest.raises(InputError, match=r"messages\[0\].content\[0\].*what it can do: chat"):
            run(ask())
        assert "describe" not in engine.tasks
        run(engine.close())


def test_a_tower_that_comes_with_the_first_picture(run: Runner, gpu: Gpu) -> None:
    made = Model(run, gpu, QWEN, vision="lazy")
    try:
        assert not made.loaded.vision.here
        made.chat([{"role": "user", "content": "text"}], 2)
        assert not made.loaded.vision.here
        assert made.chat(made.messages("one")).tokens == made.golden["one.tokens"].tolist()
        assert made.loaded.vision.here
    finally:
        run(made.engine.close())


def test_a_device_is_lost_after_a_picture(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """In the middle of an answer, and while the tower runs: the rows come back on the next device, and the answer is
    the one of an undisturbed run."""
    golden = np.load(reference.folder(QWEN) / "seen.npz")
    rig.load(QWEN, context=512, self_check=False)
    said = [{"role": "user", "content": parts([golden["picture_0"], "What is this?"])}]
    looked = 0
    rows = TowerRunner.rows

    async def lossy(self: TowerRunner, *given: Any) -> Any:
        nonlocal looked
        looked += 1
        if looked == 1:
            rig.devices.lose()
        return await rows(self, *given)

    monkeypatch.setattr(TowerRunner, "rows", lossy)

    async def ask() -> Any:
        generation = rig.engine.chat(
            said, max_tokens=32, temperature=0.0, ignore_eos=True, enable_thinking=False
        )
        came = 0
        async for delta in generation:
            if came < 9 <= came + delta.tokens:
                rig.devices.lose()
            came += delta.tokens
        return await generation

    answer = rig.run(ask())
    assert answer.tokens == golden["one.tokens"].tolist()
    assert (answer.device_losses, looked) == (2, 3)
