"""Which uploaded bytes are good: by the checksums of the load before, and by what came from the hub since."""

from __future__ import annotations

from py_engine.kept.manifest import Manifest
from py_engine.sources.jobs import TensorInfo
from py_engine.sources.repository import Sum
from py_engine.sources.spans import Spans


class TensorSums:
    """Compares the GPU's checksums of this load with those that the manifest has from the load before."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._fresh: dict[str, Spans] = {}  # by file

    def brought(self, file: str, start: int, end: int) -> None:
        """Bytes start..end of a file came from the hub in this load, or were made in it."""
        self._fresh.setdefault(file, Spans()).add(start, end)

    def forget(self, file: str) -> None:
        """The bytes of a file that this load brought were wrong."""
        self._fresh.pop(file, None)

    def is_fresh(self, file: str) -> bool:
        """Whether this load brought bytes of the file."""
        return file in self._fresh

    def differs(self, tensor: TensorInfo, sum_: Sum | None) -> bool:
        """Whether a tensor's uploaded bytes have another checksum than in the load before. False when either load has
        no checksum of the same bytes."""
        old = self._manifest.sums.get(tensor.name)
        comparable = old and sum_ and (old.start, old.end) == (sum_.start, sum_.end)
        return bool(comparable) and old != sum_

    def doubt(self, tensor: TensorInfo, sum_: Sum | None) -> None:
        """Have the sha256 of a tensor's file compared again if bytes came in this load and differ from those of the
        load before: only that says which are right. To be called before the checksum takes the old one's place."""
        stored = self._manifest.files.get(tensor.file)
        if stored and not stored.form and self.differs(tensor, sum_) and self.good(tensor, sum_):
            stored.checked = False

    def good(self, tensor: TensorInfo, sum_: Sum | None) -> bool:
        """Whether a tensor's uploaded bytes are good: they do not differ from the load before, or came in this load."""
        fresh = self._fresh.get(tensor.file, Spans())
        return not self.differs(tensor, sum_) or (
            sum_ is not None and fresh.cover(tensor.start + sum_.start, tensor.start + sum_.end)
        )
