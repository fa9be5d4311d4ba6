"""What a store holds of one repository at one commit, and how that is written down.

Names in the store, below the folder that huggingface_hub uses for a repository (models--ORG--NAME):

    blobs/HASH                   a file's bytes. HASH: its sha256, else git's object id, else one of its name
    blobs/HASH.jerboa.incomplete the same while ranges are missing, in a store that other programs read
    jerboa/derived/HASH          weights that were quantised here (sources/derived.py)
    jerboa/COMMIT.json           the index: written last, whole or not at all; it makes the manifest complete
    jerboa/COMMIT.journal        until then: a line of JSON with the manifest, then a line for each range that was
    written
                                 (in a derived file for each tensor, with its checksum), and a line whenever all of it
                                 has reached the medium
    jerboa/COMMIT.used           seconds since 1970 of the last load
    snapshots/COMMIT/FILE        link to the blob, of whole files, in a store that other programs read
    refs/REVISION                the commit that a branch or tag meant when it was loaded
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from py_engine.errors import FormatError
from py_engine.host.json_text import parse_json
from py_engine.sources.derived import Derived, is_current
from py_engine.sources.hub import Listed
from py_engine.sources.repository import Sum
from py_engine.sources.spans import Spans

LAYOUT = 1  # of the index; an index with another number is not read
OURS = "jerboa"
DERIVED = f"{OURS}/derived"
INCOMPLETE = ".jerboa.incomplete"  # not huggingface_hub's suffix: it would append to our file
# The errors that reading a damaged index or journal may raise.
_DAMAGE = (FormatError, ValueError, KeyError, TypeError, AttributeError)


def folder(repository: str) -> str:
    """The repository's folder in the store."""
    return "models--" + repository.replace("/", "--")


def repository_of(name: str) -> str:
    """The repository in whose folder a name in the store lies; "" when it lies in none."""
    first = name.partition("/")[0]
    kind, _, rest = first.partition("--")
    return rest.replace("--", "/", 1) if kind == "models" and "--" in rest else ""


def ref(repository: str, revision: str) -> str:
    """Name of the file that says which commit a branch or tag is, with slashes as huggingface_hub has them."""
    return f"{folder(repository)}/refs/{urllib.parse.quote(revision, safe='/')}"


@dataclass
class Stored:
    """One file of a repository, or derived from it.

    `size`: in bytes, when whole. `blob`: its hash. `spans`: which bytes are here. `sum`: sha256 of the whole file, from
    the hub or, for small files, of what came. `checked`: the bytes here were compared with `sum`. `ours`: this engine
    wrote them. `form`: "q4" or "q8" for a derived file, else "". `etag`: the ETag of the bytes, where the hub gives no
    sha256. `final`: the bytes lie under the blob's own name, not under that of an incomplete one.
    """

    size: int
    blob: str
    sum: str | None = None
    spans: Spans = field(default_factory=Spans)
    checked: bool = False
    ours: bool = True
    form: str = ""
    etag: str = ""
    final: bool = True  # not written down: the store shows it

    @property
    def whole(self) -> bool:
        """Whether no byte is missing."""
        return self.spans.cover(0, self.size)


@dataclass
class Manifest:
    """What a store holds of one repository at one commit.

    `refs`: the names it was asked for by (branches, tags, the commit). `absent`: files that were asked for and do not
    exist in the repository. `listed`: `files` has all files of the repository. `sums`: checksums by tensor name.
    """

    repository: str
    commit: str
    files: dict[str, Stored] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    listed: bool = False
    refs: set[str] = field(default_factory=set)
    sums: dict[str, Sum] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return sum(stored.spans.nbytes for stored in self.files.values())

    def name(self, suffix: str) -> str:
        """Name of a file about this manifest; `suffix`: "json", "journal" or "used"."""
        return f"{folder(self.repository)}/{OURS}/{self.commit}.{suffix}"

    def snapshot(self, file: str) -> str:
        """Name of the link to a whole file."""
        return f"{folder(self.repository)}/snapshots/{self.commit}/{file}"

    def ref(self, revision: str) -> str:
        """Name of the file that says which commit a branch or tag is."""
        return ref(self.repository, revision)

    def blob(self, stored: Stored, final: bool | None = None) -> str:
        """Name of a file's bytes: where they lie now, or where they would lie with this `final`."""
        if stored.form:
            return f"{folder(self.repository)}/{DERIVED}/{stored.blob}"
        final = stored.final if final is None else final
        return f"{folder(self.repository)}/blobs/{stored.blob}{'' if final else INCOMPLETE}"

    def has_weights_of(self, other: Manifest) -> bool:
        """Whether the weights are those of `other`, so that its checksums hold: all files with a sha256 are the
        same."""
        return all(
            name in self.files and self.files[name].blob == stored.blob
            for name, stored in other.files.items()
            if stored.sum == stored.blob
        )

    def learn(self, listing: Mapping[str, Listed | None], complete: bool) -> None:
        """Add what the hub says of its files. `complete`: the listing has all of them."""
        for name, listed in listing.items():
            if listed is None:
                self.absent.add(name)
            elif listed.size is not None and name not in self.files:
                other = hashlib.sha256(f"{self.repository}@{self.commit}/{name}".encode())
                blob = listed.sha256 or listed.git_oid or other.hexdigest()[:40]
                self.files[name] = Stored(listed.size, blob, listed.sha256)
        self.listed = self.listed or complete

    def take_in(self, other: Manifest, seen: Mapping[str, Spans]) -> None:
        """Take over what another load has stored of this commit. `seen`: by blob, what was here when this load
        began."""
        for name, theirs in other.files.items():
            mine = self.files.setdefault(name, theirs)
            if mine is theirs or mine.blob != theirs.blob:
                continue
            old = seen.get(mine.blob, Spans())
            for start, end in theirs.spans.ranges:
                for a, b, known in old.cut(start, end):
                    if not known:
                        mine.spans.add(a, b)
            if mine.spans.ranges == theirs.spans.ranges:
                mine.sum, mine.checked = theirs.sum, theirs.checked
        self.sums |= other.sums
        self.refs |= other.refs

    def superseded_forms(self, used: Derived | None) -> list[str]:
        """Derived files that no load will use again: of an older layout, or of the form of `used` but other tensors."""
        return [
            name
            for name, stored in self.files.items()
            if stored.form
            and (not is_current(name) or used and used.form == stored.form and used.name != name)
        ]

    # -- as text -----------------------------------------------------------------------------------------------------

    def journal(self) -> bytes:
        """The manifest as one line of JSON: the first line of a journal."""
        files: dict[str, Any] = {}
        derived: dict[str, Any] = {}
        for name, stored in sorted(self.files.items()):
            (derived if stored.form else files)[name] = {
                "size": stored.size, "blob": stored.blob, "sum": stored.sum, "ranges": stored.spans.ranges,
                "checked": stored.checked, "ours": stored.ours, "form": stored.form,
                **({"etag": stored.etag} if stored.etag else {}),
            }  # fmt: skip
        head = {
            "layout": LAYOUT,
            "repository": self.repository,
            "commit": self.commit,
            "refs": sorted(self.refs),
            "listed": self.listed,
            "absent": sorted(self.absent),
            "files": files,
            "derived": derived,
            "sums": {
                name: [s.start, s.end, f"{s.value:016x}"] for name, s in sorted(self.sums.items())
            },
        }
        return json.dumps(head).encode() + b"\n"

    def index(self) -> bytes:
        """The index file: one line of JSON, and its sha256."""
        line = self.journal()
        return line + hashlib.sha256(line[:-1]).hexdigest().encode() + b"\n"

    MARK = b'{"flushed": true}\n'

    @staticmethod
    def journal_line(
        file: str, stored: Stored, start: int, end: int, tensor: str = "", value: int = 0
    ) -> bytes:
        """A line that says: bytes start..end of the file are written. In a derived file they are those of `tensor`,
        whose checksum is `value`."""
        line = {"file": file, "size": stored.size, "blob": stored.blob, "sum": stored.sum}
        line |= {"etag": stored.etag} if stored.etag else {}
        made = {"form": stored.form, "tensor": tensor, "value": f"{value:016x}"} if tensor else {}
        return json.dumps({**line, **made, "range": [start, end]}).encode() + b"\n"

    @classmethod
    def from_index(cls, text: bytes) -> Manifest | None:
        """The manifest of an index; None when the index is damaged or of another layout."""
        body, _, sum_ = text.partition(b"\n")
        if sum_.strip().decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
            return None
        try:
            return cls._from(parse_json(body, "the index"))
        except _DAMAGE:
            return None

    @classmethod
    def from_journal(cls, text: bytes) -> Manifest | None:
        """The manifest that a journal describes: what was written before the process ended. None when its first line is
        damaged.

        Reading stops at the first damaged line (a full disk may have cut one). After a crash of the machine a line may
        be there and its bytes lost. Where a checksum will show that, the line counts; other files count only up to the
        last mark."""
        head, *lines = text.split(b"\n")[:-1] or [b""]
        try:
            made = cls._from(parse_json(head, "the journal's head"))
        except _DAMAGE:
            return None
        waiting: list[tuple[Stored, tuple[int, int]]] = []
        with suppress(*_DAMAGE):
            for line in lines:
                data = parse_json(line, "a journal's line")
                if "flushed" in data:
                    for stored, (start, end) in waiting:
                        stored.spans.add(start, end)
                    waiting.clear()
                    continue
                start, end = data["range"]
                fresh = Stored(data["size"], data["blob"], data["sum"], form=data.get("form", ""))
                stored = made.files.setdefault(data["file"], fresh)
                stored.etag = data.get("etag", "")
                if stored.form:
                    made.sums[data["tensor"]] = Sum(0, end - start, int(data["value"], 16))
                if stored.sum or stored.form:
                    stored.spans.add(start, end)
                else:
                    waiting.append((stored, (start, end)))
        return made

    @classmethod
    def _from(cls, data: Any) -> Manifest:
        if data["layout"] != LAYOUT:
            raise ValueError("another layout")
        files = {
            name: Stored(
                f["size"], f["blob"], f["sum"], Spans(f["ranges"]), f["checked"], f["ours"], f.get("form", ""),
                f.get("etag", ""),
            )
            for name, f in (data["files"] | data.get("derived", {})).items()
        }  # fmt: skip
        sums = {name: Sum(a, b, int(v, 16)) for name, (a, b, v) in data.get("sums", {}).items()}
        return cls(
            data["repository"], data["commit"], files, set(data["absent"]), data["listed"],
            set(data["refs"]), sums,
        )  # fmt: skip
