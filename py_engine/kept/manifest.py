"""What the store holds of one model at one commit, and how that is written down.

Names in the store, below the folder that huggingface_hub uses for a repository (models--ORG--NAME):

    blobs/HASH                   a file's bytes. HASH: its sha256, else git's object id, else one of its name
    blobs/HASH.jerboa.incomplete while ranges are missing, in a store that other programs read
    jerboa/derived/HASH          weights in the form of a load that quantises (sources/derived.py)
    jerboa/COMMIT.json           the index: written last, whole or not at all; it makes the rest valid
    jerboa/COMMIT.journal        until then: a line of JSON for the files, then one for each range that was written
                                 (of a derived file: for each tensor, with its sum), and one whenever all of them are
                                 on the medium
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
from py_engine.sources.hub import Listed
from py_engine.sources.repository import Sum
from py_engine.sources.spans import Spans

LAYOUT = 1  # of the index; another number is another namespace and starts anew
OURS = "jerboa"
DERIVED = f"{OURS}/derived"
INCOMPLETE = ".jerboa.incomplete"  # not huggingface_hub's suffix: it would append to such a file
# What reading a damaged file of ours may raise.
_DAMAGE = (FormatError, ValueError, KeyError, TypeError, AttributeError)


def folder(repository: str) -> str:
    """The repository's folder in the store."""
    return "models--" + repository.replace("/", "--")


def repository_of(name: str) -> str:
    """The repository whose folder a name in the store lies in; "" for others'."""
    first = name.partition("/")[0]
    kind, _, rest = first.partition("--")
    return rest.replace("--", "/", 1) if kind == "models" and "--" in rest else ""


def ref(repository: str, revision: str) -> str:
    """Name of the file that says which commit a branch or tag is; folders in it as huggingface_hub has them."""
    return f"{folder(repository)}/refs/{urllib.parse.quote(revision, safe='/')}"


@dataclass
class Stored:
    """One file of the repository, or made from it. `sum`: sha256 of its content, the hub's or, for small files, that of
    what came. `checked`: the bytes here were seen to have it. `ours`: this engine wrote them. `form`: of a derived file
    "q4" or "q8". `etag`: under which the bytes came, where the hub gives no sha256. `final`: they lie under the blob's
    own name, not that of an incomplete one."""

    size: int
    blob: str
    sum: str | None = None
    spans: Spans = field(default_factory=Spans)
    checked: bool = False
    ours: bool = True
    form: str = ""
    etag: str = ""
    final: bool = True  # not written down: the store knows

    @property
    def whole(self) -> bool:
        """Whether no byte is missing."""
        return self.spans.cover(0, self.size)


@dataclass
class Manifest:
    """A namespace: one repository at one commit. `refs`: what it was asked for as (branches, tags, the commit)."""

    repository: str
    commit: str
    files: dict[str, Stored] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)  # asked for, and not in the repository
    listed: bool = False  # `files` are all
    refs: set[str] = field(default_factory=set)
    sums: dict[str, Sum] = field(default_factory=dict)  # by the tensor's name

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return sum(stored.spans.nbytes for stored in self.files.values())

    def name(self, suffix: str) -> str:
        """Of a file about this namespace: "json", "journal" or "used"."""
        return f"{folder(self.repository)}/{OURS}/{self.commit}.{suffix}"

    def snapshot(self, file: str) -> str:
        """Of the link to a whole file."""
        return f"{folder(self.repository)}/snapshots/{self.commit}/{file}"

    def ref(self, revision: str) -> str:
        """Of the file that says which commit a branch is."""
        return ref(self.repository, revision)

    def blob(self, stored: Stored, final: bool | None = None) -> str:
        """Of a file's bytes: where they lie, or where they would if `final`."""
        if stored.form:
            return f"{folder(self.repository)}/{DERIVED}/{stored.blob}"
        final = stored.final if final is None else final
        return f"{folder(self.repository)}/blobs/{stored.blob}{'' if final else INCOMPLETE}"

    def has_weights_of(self, other: Manifest) -> bool:
        """Whether all files that the hub names by their sha256 are the same as that one's, so that its sums hold."""
        return all(
            name in self.files and self.files[name].blob == stored.blob
            for name, stored in other.files.items()
            if stored.sum == stored.blob
        )

    def learn(self, listing: Mapping[str, Listed | None], complete: bool) -> None:
        """Take over what the hub says of its files."""
        for name, listed in listing.items():
            if listed is None:
                self.absent.add(name)
            elif listed.size is not None and name not in self.files:
                other = hashlib.sha256(f"{self.repository}@{self.commit}/{name}".encode())
                blob = listed.sha256 or listed.git_oid or other.hexdigest()[:40]
                self.files[name] = Stored(listed.size, blob, listed.sha256)
        self.listed = self.listed or complete

    # -- as text -----------------------------------------------------------------------------------------------------

    def journal(self) -> bytes:
        """The journal's first line."""
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
        """A line that says: bytes start..end of the file are written. Of a derived file they are those of `tensor`,
        whose checksum is `value`."""
        line = {"file": file, "size": stored.size, "blob": stored.blob, "sum": stored.sum}
        line |= {"etag": stored.etag} if stored.etag else {}
        made = {"form": stored.form, "tensor": tensor, "value": f"{value:016x}"} if tensor else {}
        return json.dumps({**line, **made, "range": [start, end]}).encode() + b"\n"

    @classmethod
    def from_index(cls, text: bytes) -> Manifest | None:
        """None when it is damaged or of another layout."""
        body, _, sum_ = text.partition(b"\n")
        if sum_.strip().decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
            return None
        try:
            return cls._from(parse_json(body, "the index"))
        except _DAMAGE:
            return None

    @classmethod
    def from_journal(cls, text: bytes) -> Manifest | None:
        """What was written before the process ended, up to the first line that is damaged: a disk that was full may
        have cut one. A machine that failed may have kept a line and lost its bytes: files that no sum will tell about
        count up to the last mark only."""
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
