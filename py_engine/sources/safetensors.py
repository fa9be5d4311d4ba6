"""safetensors: finds which bytes of which file hold a tensor, by reading the headers alone.

Format (https://github.com/huggingface/safetensors#format): u64 N, little-endian; N bytes of JSON that begin with `{`,
name -> {dtype, shape, data_offsets}; then the data, which the tensors cover without holes or overlap.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from py_engine.errors import FormatError, ModelError
from py_engine.host.json_text import parse_json
from py_engine.sources.jobs import TensorInfo
from py_engine.sources.repository import Repository, Subfolder

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
MAX_RANK = 8
MAX_DIMENSION = 1 << 40
FIRST_READ_BYTES = 64 << 10  # most headers fit, so that one request is enough
FIRST_LOCAL_BYTES = 512  # enough to recognise a file that is no safetensors
MAX_SHARDS = 4096
HEADERS_AT_ONCE = 4

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}

SUFFIX = ".safetensors"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_NAME = re.compile(r"model[\w.-]*\.safetensors", re.ASCII)
SHARD_OF = re.compile(r"model-(\d{1,6})-of-(\d{1,6})\.safetensors", re.ASCII)

ADVICE = "The file is damaged or was made wrongly: fetch or convert it again."


async def read_tensors(
    repo: Repository, note: Callable[[str], None] = lambda _: None
) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint: of `model.safetensors`, or of its shards.

    The files decide, not the index beside them. Tensors that the index forgets are found, those that it invents are
    left out, and `note` gets a sentence on both. Only files named `model*` are read: other `*.safetensors` beside them
    are drafts or adapters. Raises ModelError when there are no such weights; FormatError when a file breaks the format,
    or when a file is missing whose tensors are nowhere else; HubError.
    """
    weight_map: dict[str, str] = {}
    if await repo.exists(INDEX):
        weight_map = _weight_map(await repo.json(INDEX), f"{repo.address}: {INDEX}")
    listed = sorted(set(weight_map.values()))
    absent = [shard for shard in listed if not await repo.exists(shard)]
    files = [shard for shard in listed if shard not in absent]
    if SINGLE not in listed and await repo.exists(SINGLE):
        if listed and not absent:
            note(f"{SINGLE} was not read: {INDEX} is of other files, which are all there.")
        elif listed:
            note(
                f"{INDEX} is of files that are not there ({some(absent)}); {SINGLE} was read instead."
            )
        if not listed or absent:
            return (await _read_headers(repo, [SINGLE]))[SINGLE]
    more = _forgotten(repo, listed, whole=bool(listed) and not absent)
    if not files and not more:
        raise _no_weights(repo, absent, weight_map)
    replaced = bool(listed) and not files and not _series(more) & _series(listed)
    if replaced:
        note(
            f"{INDEX} is of files that are not there ({some(absent)}); {some(more)} were read instead."
        )
    found = await _read_headers(repo, [*files, *more])
    tensors: dict[str, TensorInfo] = {}
    # Where two files hold a tensor, the index decides.
    for name, shard in weight_map.items():
        if name in found.get(shard, {}):
            tensors[name] = found[shard][name]
    for held in found.values():
        tensors = held | tensors
    if replaced:
        return tensors
    for shard in absent:
        lost = [n for n, file in weight_map.items() if file == shard and n not in tensors]
        if lost:
            raise _incomplete(repo, shard, lost[0])
    _tell_differences(weight_map, tensors, more, note)
    return tensors


async def read_sets(
    repo: Repository, places: Sequence[str], note: Callable[[str], None] = lambda _: None
) -> dict[str, TensorInfo]:
    """The tensors of a checkpoint, and those of its other sets of files. Each of `places` is a folder with weights of
    its own ("2_Dense") or a file ("voices/alba.safetensors"); the names of their tensors begin with it (2_Dense/...,
    voices/alba/...). Raises as read_tensors does."""
    found = await read_tensors(repo, note)
    for place in places:
        stem = place.removesuffix(SUFFIX)
        if stem == place:
            inside = await read_tensors(Subfolder(repo, place), note)
            inside = {n: replace(t, file=f"{place}/{t.file}") for n, t in inside.items()}
        else:
            inside = await read_header(repo, place)
        named = {f"{stem}/{n}": replace(t, name=f"{stem}/{n}") for n, t in inside.items()}
        for name in found.keys() & named.keys():
            raise FormatError(
                f"{repo.address}: tensor {name!r} is in {found[name].file} and in {named[name].file}. {ADVICE}"
            )
        found |= named
    return found


def _forgotten(repo: Repository, listed: Sequence[str], *, whole: bool) -> list[str]:
    """Shards that the index does not list: those of a series that it lists in part; and, where the list is not `whole`
    (a listed file is missing, or there is no index), those of another series that is complete.

    Raises FormatError when there is no index, and the only series has a gap.
    """
    series: dict[str, dict[int, str]] = {}
    for file in repo.files():
        if part := SHARD_OF.fullmatch(file):
            series.setdefault(part[2], {})[int(part[1])] = file
    ours = _series(listed)
    found: list[str] = []
    for count, shards in series.items():
        gap = next((n for n in range(1, min(int(count), MAX_SHARDS) + 1) if n not in shards), None)
        if not listed and len(series) == 1 and gap is not None:
            raise FormatError(
                f"{repo.address}: of {count} files of weights, model-{gap:0{len(count)}d}-of-{count}.safetensors"
                " is not there. The copy is not complete: fetch the missing file."
            )
        if count in ours or (not whole and gap is None):
            found += shards.values()
    return sorted(set(found) - set(listed))


def _series(files: Sequence[str]) -> set[str]:
    """The series that these files belong to: the number after `-of-` in their names."""
    return {part[2] for file in files if (part := SHARD_OF.fullmatch(file))}


def _no_weights(
    repo: Repository, absent: Sequence[str], weight_map: Mapping[str, str]
) -> ModelError | FormatError:
    if absent:
        return _incomplete(
            repo, absent[0], next(n for n, f in weight_map.items() if f == absent[0])
        )
    beside = [
        n for n in repo.files() if n.endswith((".safetensors", ".gguf", ".bin", ".npz", ".pt"))
    ]
    return ModelError(
        f"{repo.address} has no {SINGLE} and no {INDEX}"
        + (f"; its weights are {', '.join(beside[:5])}" if beside else "")
        + ". Give a repository with safetensors, or convert a GGUF with `jerboa convert`."
    )


def _incomplete(repo: Repository, shard: str, tensor: str) -> FormatError:
    return FormatError(
        f"{repo.address}: {INDEX} names {shard} (for {tensor} and others), which is not there."
        " The copy is not complete: fetch the missing file."
    )


def _tell_differences(
    weight_map: Mapping[str, str],
    tensors: Mapping[str, TensorInfo],
    more: Sequence[str],
    note: Callable[[str], None],
) -> None:
    """Give a note on each difference between the index and the files."""
    if not weight_map:
        note(f"There is no {INDEX}: {len(more)} files of weights were found by their names.")
        return
    for what, names in (
        ("forgets tensors that are in the files", [n for n in tensors if n not in weight_map]),
        ("names tensors that are in no file", [n for n in weight_map if n not in tensors]),
        (
            "names another file than the one that holds",
            [n for n, f in weight_map.items() if n in tensors and tensors[n].file != f],
        ),
    ):
        if names:
            note(f"{INDEX} {what}: {some(names)}. The files were believed.")


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names in a sentence, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


async def _read_headers(repo: Repository, files: list[str]) -> dict[str, dict[str, TensorInfo]]:
    gate = asyncio.Semaphore(HEADERS_AT_ONCE)

    async def one(file: str) -> dict[str, TensorInfo]:
        async with gate:
            return await read_header(repo, file)

    tasks = [asyncio.ensure_future(one(file)) for file in files]
    try:
        return dict(zip(files, await asyncio.gather(*tasks), strict=True))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def read_header(repo: Repository, file: str) -> dict[str, TensorInfo]:
    """The tensors of one file, in the order of its header. Raises FormatError, HubError."""
    size = await repo.size(file)
    guess = FIRST_LOCAL_BYTES if repo.local else FIRST_READ_BYTES
    first = repo.io.to_bytes(await repo.read(file, 0, min(size, guess)))
    where = f"{repo.address}: {file}"
    end = 8 + header_length(first, size, where)
    if end > len(first):
        first += repo.io.to_bytes(await repo.read(file, len(first), end))
    return parse_header(first[8:end], size, file, where)


def header_length(first: bytes, size: int, where: str) -> int:
    """N, from the file's first bytes and its size. Raises FormatError."""
    if size < 10 or len(first) < 9:
        raise FormatError(
            f"{where} has {size} bytes, too few for a safetensors file. It was cut short: fetch it again."
        )
    length = int.from_bytes(first[:8], "little")
    if first.lstrip()[:1] == b"<" and b"html" in first[:512].lower():
        raise FormatError(f"{where} is a web page, not weights. Check where it came from.")
    if first.startswith(b"version https://git-lfs"):
        raise FormatError(f"{where} is a Git LFS pointer, not weights. Run `git lfs pull` there.")
    if first.startswith(b"GGUF"):
        raise FormatError(f"{where} is a GGUF file. Convert it first: `jerboa convert`.")
    if length > MAX_HEADER_BYTES or length < 2:
        raise FormatError(
            f"{where}: its first 8 bytes announce a header of {length} bytes, outside 2 to"
            f" {MAX_HEADER_BYTES}. {ADVICE}"
        )
    if 8 + length > size:
        raise FormatError(
            f"{where} has {size} bytes, less than its header of {length}. It was cut short: fetch it again."
        )
    if first[8:9] != b"{":
        raise FormatError(f"{where}: its header does not begin with '{{'. {ADVICE}")
    return length


def parse_header(header: bytes, size: int, file: str, where: str) -> dict[str, TensorInfo]:
    """Check a whole header (without its length) against the file's `size`. Raises FormatError."""
    entries = parse_json(header, f"{where}: its header", MAX_HEADER_BYTES)
    if not isinstance(entries, dict):
        raise FormatError(f"{where}: its header is not a JSON object. {ADVICE}")
    metadata = entries.pop("__metadata__", None)
    if metadata is not None and not isinstance(metadata, dict):
        raise FormatError(f"{where}: __metadata__ is not an object. {ADVICE}")
    for key, value in (metadata or {}).items():
        if not isinstance(value, str):
            raise FormatError(
                f"{where}: __metadata__ holds {_short(value)} under {_short(key)}, not a string. {ADVICE}"
            )
    begin = 8 + len(header)
    tensors = {
        name: _tensor(name, entry, begin, size, file, where) for name, entry in entries.items()
    }
    _check_cover(tensors, begin, size, where)
    return tensors


def _tensor(name: str, entry: Any, begin: int, size: int, file: str, where: str) -> TensorInfo:
    def wrong(what: str) -> FormatError:
        return FormatError(f"{where}: tensor {name!r} {what}. {ADVICE}")

    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise wrong("is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise wrong(f"has dtype {_short(dtype)}, not one of {', '.join(DTYPE_BYTES)}")
    if not isinstance(shape, list) or not all(type(n) is int for n in shape):
        raise wrong(f"has shape {_short(shape)}, not a list of integers")
    if len(shape) > MAX_RANK or not all(0 <= n <= MAX_DIMENSION for n in shape):
        raise wrong(f"has the absurd shape {_short(shape)}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(n) is int for n in offsets)
    ):
        raise wrong(f"has data_offsets {_short(offsets)}, not two integers")
    start, end = offsets
    if not 0 <= start <= end:
        raise wrong(f"has data_offsets {_short(offsets)}, which run backwards or are negative")
    if begin + end > size:
        raise FormatError(
            f"{where} has {size} bytes, but tensor {name!r} ends at byte {begin + end}. "
            "It was cut short: fetch it again."
        )
    wanted = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - start != wanted:
        raise wrong(
            f"has {end - start} bytes of data where its shape {_short(shape)} of {dtype} needs {wanted}"
        )
    return TensorInfo(name, dtype, tuple(shape), file, begin + start, begin + end)


def _check_cover(tensors: Mapping[str, TensorInfo], begin: int, size: int, where: str) -> None:
    """Check that the tensors cover the data without overlap, hole or rest. Raises FormatError."""
    at, before = begin, None
    for info in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
        if info.start < at:
            other = before.name if before else "the header"
            raise FormatError(f"{where}: tensor {info.name!r} overlaps {other!r}. {ADVICE}")
        if info.start > at:
            raise FormatError(
                f"{where}: bytes {at} to {info.start}, before tensor {info.name!r}, belong to no tensor."
                f" {ADVICE}"
            )
        at, before = info.end, info
    if at != size:
        raise FormatError(f"{where}: bytes {at} to {size} belong to no tensor. {ADVICE}")


def _weight_map(index: Any, where: str) -> dict[str, str]:
    """Tensor -> file, of an index, checked. Raises FormatError."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{where} holds no weight_map. {ADVICE}")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not SHARD_NAME.fullmatch(file):
            raise FormatError(
                f"{where}: {name} is said to be in {_short(file)}, which is not a model*.safetensors"
                " beside it. Fetch the index again."
            )
    if len(set(weight_map.values())) > MAX_SHARDS:
        raise FormatError(f"{where} names more than {MAX_SHARDS} files. {ADVICE}")
    return weight_map


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 80 else text[:77] + "..."
