"""Headers and indexes: good files are read as the safetensors library reads them, bad ones give typed errors."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from py_engine.errors import EngineError, FormatError, ModelError
from py_engine.host.io_native import NativeIo
from py_engine.sources import safetensors
from py_engine.sources.address import open_repository
from py_engine.sources.jobs import TensorInfo
from py_engine.sources.safetensors import read_tensors


def load(folder: Path) -> dict[str, TensorInfo]:
    async def go() -> dict[str, TensorInfo]:
        return await read_tensors(await open_repository(str(folder), NativeIo()))

    return asyncio.run(go())


def pack(header: Any, data: bytes = b"", raw: bytes | None = None) -> bytes:
    body = raw if raw is not None else json.dumps(header).encode()
    return len(body).to_bytes(8, "little") + body + data


def entry(dtype: Any, shape: Any, start: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_agrees_with_the_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {
        "a.weight": rng.standard_normal((7, 5)).astype(np.float32),
        "b": rng.standard_normal(3).astype(np.float16),
        "q": rng.integers(0, 2**32, (3, 4), dtype=np.uint32),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "mask": np.array([True, False]),
    }
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    whole = (tmp_path / "model.safetensors").read_bytes()
    infos = load(tmp_path)
    assert infos.keys() == arrays.keys()
    for name, info in infos.items():
        assert info.shape == arrays[name].shape
        assert whole[info.start : info.end] == arrays[name].tobytes()
        assert info.nbytes == arrays[name].nbytes and info.file == "model.safetensors"
    assert infos["q"].dtype == "U32" and infos["b"].dtype == "F16"


def test_a_header_longer_than_the_first_read(tmp_path: Path) -> None:
    arrays = {f"layer.{i:05d}.weight": np.full(3, i, np.float32) for i in range(2000)}
    save_file(arrays, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    assert int.from_bytes(whole[:8], "little") > safetensors.FIRST_READ_BYTES
    infos = load(tmp_path)
    assert len(infos) == 2000
    last = infos["layer.01999.weight"]
    assert np.frombuffer(whole[last.start : last.end], np.float32).tolist() == [1999] * 3


def test_index(tmp_path: Path) -> None:
    save_file({"x": np.ones(2, np.float32)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"y": np.ones(3, np.float32)}, tmp_path / "model-00002-of-00002.safetensors")
    save_file({"z": np.ones(3, np.float32)}, tmp_path / "mtp.safetensors")
    weight_map = {
        "x": "model-00001-of-00002.safetensors",
        "y": "model-00002-of-00002.safetensors",
    }
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    infos = load(tmp_path)
    # The tensor z, which is in no index, is not read.
    assert {n: i.file for n, i in infos.items()} == weight_map

    index.write_text(json.dumps({"weight_map": weight_map | {"v": "model-9.safetensors"}}))
    with pytest.raises(FormatError, match=r"names model-9\.safetensors \(for v"):
        load(tmp_path)
    wrong_maps: list[Any] = [
        {"weight_map": {"z": "mtp.safetensors"}},
        {"weight_map": {"z": "../model.safetensors"}},
        {"weight_map": {"z": "model/../../x.safetensors"}},
        {"weight_map": {"z": 5}},
        {"weight_map": {}},
        {"weight_map": []},
        {},
        [],
        None,
    ]
    for wrong in wrong_maps:
        index.write_text(json.dumps(wrong))
        with pytest.raises(FormatError, match="index"):
            load(tmp_path)


ONE, THIRD = "model.safetensors", "model-00003-of-00005.safetensors"
X, Y = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("files", "index", "wanted", "words"),
    [
        ({X: "ab", Y: "c"}, {"a": X, "b": X, "c": Y}, {"a": X, "b": X, "c": Y}, None),
        ({X: "ab", Y: "c"}, {"a": X, "c": Y}, {"a": X, "b": X, "c": Y}, "forgets .*: b"),
        ({X: "ab", Y: "c"}, {"a": X, "b": X}, {"a": X, "b": X, "c": Y}, "forgets .*: c"),
        ({X: "a", Y: "c"}, {"a": X, "b": X, "c": Y}, {"a": X, "c": Y}, "names .* in no file: b"),
        ({X: "a", Y: "bc"}, {"a": X, "b": X, "c": Y}, {"a": X, "b": Y, "c": Y}, "another file .*: b"),
        ({X: "ab", Y: "bc"}, {"a": X, "b": Y, "c": Y}, {"a": X, "b": Y, "c": Y}, None),
        ({X: "ab", Y: "bc"}, {"a": X, "c": Y}, {"a": X, "b": X, "c": Y}, "forgets .*: b"),
        # The index names a shard that is gone, but other files hold all of its tensors.
        ({X: "a", Y: "bc"}, {"a": X, "b": "model-9.safetensors", "c": Y}, {"a": X, "b": Y, "c": Y}, "another .*b"),
        # The model was written again into one file after the index was made.
        ({ONE: "ab"}, {"a": X, "b": Y, "c": Y}, dict.fromkeys("ab", ONE), "read instead"),
        ({ONE: "ab", X: "a"}, None, dict.fromkeys("ab", ONE), None),
        # The model was written again into fewer shards.
        ({X: "ab", Y: "c"}, dict.fromkeys("abc", THIRD), {"a": X, "b": X, "c": Y}, f"{Y} were read instead"),
        # The other names in the index are from the older model.
        ({X: "ab", Y: "c"}, dict.fromkeys("abcd", THIRD), {"a": X, "b": X, "c": Y}, "read instead"),
        # The model is whole, beside a file of something else.
        ({ONE: "abq", X: "ab", Y: "c"}, {"a": X, "b": X, "c": Y}, {"a": X, "b": X, "c": Y}, "not read"),
        # There is no index, and a file of another series was left.
        ({X: "ab", Y: "c"}, None, {"a": X, "b": X, "c": Y}, "no model.safetensors.index.json: 2 files"),
        ({X: "a", Y: "c", THIRD: "d"}, {"a": X, "c": Y}, {"a": X, "c": Y}, None),
    ],
)  # fmt: skip
def test_files_decide_over_the_index(
    tmp_path: Path,
    files: dict[str, str],
    index: dict[str, str] | None,
    wanted: dict[str, str],
    words: str | None,
) -> None:
    for file, names in files.items():
        save_file({name: np.ones(2, np.float32) for name in names}, tmp_path / file)
    if index is not None:
        body = json.dumps({"weight_map": index})
        (tmp_path / "model.safetensors.index.json").write_text(body)
    notes: list[str] = []

    async def go() -> dict[str, Any]:
        return dict(
            await read_tensors(await open_repository(str(tmp_path), NativeIo()), notes.append)
        )

    assert {name: info.file for name, info in asyncio.run(go()).items()} == wanted
    if words is None:
        assert notes == []
    else:
        (told,) = notes
        assert re.search(words, told)


def test_a_shard_without_its_index_is_missed(tmp_path: Path) -> None:
    save_file({"y": np.ones(3, np.float32)}, tmp_path / Y)
    with pytest.raises(FormatError, match=X):
        load(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"no model\.safetensors .* pytorch_model\.bin"):
        load(tmp_path)


GOOD = entry("F32", [2], 0, 8)
BAD = {
    "empty file": (b"", "too few"),
    "seven bytes": (b"\1" * 7, "too few"),
    "only a length": (pack({})[:8], "too few"),
    "header of 2**60 bytes": ((1 << 60).to_bytes(8, "little") + b"{}" * 8, "announce"),
    "header of 0 bytes": (bytes(8) + b"{}{}", "announce"),
    "header longer than the file": ((5000).to_bytes(8, "little") + b"{}" * 8, "less than its header"),
    "header longer by a byte": ((9).to_bytes(8, "little") + b"{}" * 4, "less than its header"),
    "not an object": (pack([1, 2]), "begin with"),
    "not JSON": (pack(None, raw=b'{"a": }'), "not valid JSON"),
    "not UTF-8": (pack(None, raw=b'{"\xff": 1}'), "not valid JSON"),
    "deep": (pack(None, raw=b'{"a":' + b"[" * 100_000), "nest more than 64 deep"),
    "deep and closed": (pack(None, raw=b'{"a":' + b"[" * 99 + b"]" * 99 + b"}"), "nest more than 64 deep"),
    "duplicate": (pack(None, bytes(8), b'{"a":%b,"a":%b}' % ((json.dumps(GOOD).encode(),) * 2)), "twice"),
    "duplicate field": (pack(None, bytes(8), b'{"a":{"dtype":"F32","dtype":"F32"}}'), "twice"),
    "overlap": (pack({"a": GOOD, "b": entry("F32", [2], 4, 12)}, bytes(12)), "overlaps 'a'"),
    "same bytes": (pack({"a": GOOD, "b": GOOD}, bytes(8)), "overlaps"),
    "hole": (pack({"a": GOOD, "b": entry("F32", [1], 12, 16)}, bytes(16)), "belong to no tensor"),
    "hole in front": (pack({"b": entry("F32", [1], 4, 8)}, bytes(8)), "belong to no tensor"),
    "rest": (pack({"a": GOOD}, bytes(9)), "belong to no tensor"),
    "cut": (pack({"a": GOOD}, bytes(7)), "cut short"),
    "size": (pack({"a": entry("F32", [3], 0, 8)}, bytes(8)), r"needs 12"),
    "backwards": (pack({"a": entry("F32", [2], 8, 0)}, bytes(8)), "backwards"),
    "negative offset": (pack({"a": entry("F32", [2], -8, 0)}, bytes(8)), "backwards"),
    "float offset": (pack({"a": entry("F32", [2], 0, 8.0)}, bytes(8)), "two integers"),
    "bool offset": (pack({"a": entry("U8", [1], False, True)}, bytes(1)), "two integers"),
    "three offsets": (pack({"a": {**GOOD, "data_offsets": [0, 4, 8]}}, bytes(8)), "two integers"),
    "no shape": (pack({"a": {"dtype": "F32"}}, bytes(8)), "not described"),
    "no entry": (pack({"a": None}), "not described"),
    "dtype": (pack({"a": entry("F31", [2], 0, 8)}, bytes(8)), "dtype 'F31'"),
    "dtype kind": (pack({"a": entry(["F32"], [2], 0, 8)}, bytes(8)), "dtype"),
    "negative shape": (pack({"a": entry("F32", [-1, -2], 0, 8)}, bytes(8)), "absurd"),
    "huge shape": (pack({"a": entry("F32", [10**60], 0, 8)}, bytes(8)), "absurd"),
    "overflowing shape": (pack({"a": entry("F32", [2**33, 2**31], 0, 8)}, bytes(8)), "needs"),
    "deep shape": (pack({"a": entry("F32", [1] * 5000, 0, 4)}, bytes(4)), "absurd"),
    "float shape": (pack({"a": entry("F32", [2.0], 0, 8)}, bytes(8)), "integers"),
    "shape kind": (pack({"a": entry("F32", "2", 0, 8)}, bytes(8)), "integers"),
    "metadata": (pack({"__metadata__": 3}), "__metadata__"),
    "metadata of a number": (pack({"__metadata__": {"a": "x", "b": 1}}), "__metadata__ holds 1 under 'b'"),
    "half a character": (pack(None, bytes(8), b'{"\\ud800":%b}' % json.dumps(GOOD).encode()), "half of"),
    "web page": (b"<!DOCTYPE html><html><body>log in</body></html>", "web page"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "GGUF": (b"GGUF\3\0\0\0" + bytes(30), "convert"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    body, text = BAD[case]
    (tmp_path / "model.safetensors").write_bytes(body)
    with pytest.raises(FormatError, match=text) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "model.safetensors" in message and len(message) < 600


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"a": "b"},
        3,
        "x",
        [],
        {"a": 1},
        {"a": 1.5},
        {"a": True},
        {"a": None},
        {"a": ["x"]},
        {"a": {}},
    ],
    ids=repr,
)
def test_metadata_as_the_library_takes_it(tmp_path: Path, metadata: Any) -> None:
    place = tmp_path / "model.safetensors"
    place.write_bytes(pack({"__metadata__": metadata, "a": GOOD}, bytes(8)))
    try:
        with safe_open(place, "np") as file:
            assert list(file.keys()) == ["a"]
    except SafetensorError:
        with pytest.raises(FormatError, match="__metadata__"):
            load(tmp_path)
    else:
        assert list(load(tmp_path)) == ["a"]


def test_fuzz(tmp_path: Path) -> None:
    """Cut files and flipped bytes give a good parse or an EngineError, nothing else."""
    place = tmp_path / "model.safetensors"
    save_file(
        {"a": np.ones((3, 5), np.float32), "b": np.ones(7, np.float16)}, place, {"format": "pt"}
    )
    good = place.read_bytes()
    rng = random.Random(5)
    outcomes = {"good": 0, "refused": 0}
    for _ in range(1500):
        body = bytearray(good)
        if rng.random() < 0.3:
            del body[rng.randrange(len(body)) :]
        for _ in range(rng.randrange(1, 4)):
            if body:
                body[rng.randrange(min(len(body), 230))] = rng.randrange(256)
        try:
            where = "fuzz"
            length = safetensors.header_length(bytes(body), len(body), where)
            safetensors.parse_header(bytes(body[8 : 8 + length]), len(body), "f", where)
            outcomes["good"] += 1
        except EngineError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 500 and outcomes["good"] > 5
