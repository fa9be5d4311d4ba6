"""The files of the page: the path and content security policy of each, and which of them are the shell (the files
that the page needs without a network). The shell has a version. devtools/page_server.py serves the files,
devtools/build_site.py writes them into a folder.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import urllib.parse
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devtools.vendor import load_lock
from py_engine.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
HUB = "https://huggingface.co"
# The hub redirects downloads to the other two.
HUB_HOSTS = (HUB, "https://*.huggingface.co", "https://*.hf.co")
INDEX = "./"  # the page's own path in the shell's list
ENGINE = "engine.zip"
WORKER = "app/worker.py"
AT_THE_ROOT = ("manifest.webmanifest", "sw.js")


def content_security_policy(hub: str, *, document: bool) -> str:
    """Return the policy of documents, or (document=False) of everything else, mainly of the worker's script."""
    parts = urllib.parse.urlsplit(hub)
    hosts = HUB_HOSTS if hub == HUB else (f"{parts.scheme}://{parts.netloc}",)
    evaluation = " 'unsafe-eval'" if document else ""
    return "; ".join(
        (
            "default-src 'self'",
            f"script-src 'self' 'wasm-unsafe-eval'{evaluation}",
            "connect-src 'self' " + " ".join(hosts),
            "worker-src 'self'",
            "img-src 'self' data: blob:",
            "style-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


@dataclass
class Site:
    """The files and models to serve. `models` holds ORGANISATION/NAME folders; `offered` is the list of /config.json,
    `embedders` its list of models that documents are searched by;
    `fetching` are models that are being fetched (devtools/offers.py), `looking`: more may come."""

    root: Path = ROOT
    models: Path = ROOT / ".models"
    hub: str = HUB
    offered: list[dict[str, Any]] = field(default_factory=list)
    embedders: list[dict[str, Any]] = field(default_factory=list)
    fetching: list[dict[str, Any]] = field(default_factory=list)
    looking: bool = False
    _digests: dict[tuple[str, int, int], str] = field(default_factory=dict, repr=False)

    @property
    def version(self) -> str:
        """Return the project's version."""
        return VERSION

    def config(self, endpoint: str = "") -> dict[str, Any]:
        """Return the content of /config.json; `endpoint`: where this machine's own models are served."""
        models, embedders = (
            [
                {**model, "endpoint": endpoint if model.get("endpoint") == "local" else self.hub}
                for model in offered
            ]
            for offered in (self.offered, self.embedders)
        )
        found = {"version": self.version, "hub": self.hub, "models": models}
        more = {"embedders": embedders, "fetching": self.fetching, "looking": self.looking}
        return {**found, **{name: value for name, value in more.items() if value}}

    def find(self, path: str) -> Path | None:
        """Return the file of the page or the engine at a URL path, None when there is none."""
        first, _, rest = path.lstrip("/").partition("/")
        folders = {name: self.root / name for name in ("app", "py_engine", "shaders")}
        folders["vendor"] = self.root / ".vendor"
        if first in folders and rest:
            return inside(folders[first], rest)
        if path.lstrip("/") in AT_THE_ROOT:
            return inside(self.root, first)
        page = path.lstrip("/") or "index.html"
        public = self.root / "public"
        return inside(public, page) or inside(public, f"{page}.html")  # /diagnostics

    def read(self, path: str) -> bytes | None:
        """Return the content at a path of the shell, or at /sw.js; None when there is none."""
        path = path.removeprefix("./").lstrip("/")
        if path == ENGINE:
            return engine_zip(self.root)
        file = self.find(path)
        if file is None:
            return None
        if path == "sw.js":
            return f"const SHELL = {json.dumps(self.shell())};\n".encode() + file.read_bytes()
        return file.read_bytes()

    def shell_paths(self) -> list[str]:
        """Return the paths of all files that the page needs without a network; no weights, and no files for tests."""
        public = self.root / "public"
        paths = [p.relative_to(public).as_posix() for p in public.rglob("*") if p.is_file()]
        paths += [f"app/{p.name}" for p in (self.root / "app").glob("*.py")]
        for package in load_lock():
            if package["group"] == "run":
                paths += [f"vendor/{package['target']}/{name}" for name in package["files"]]
        paths += ["manifest.webmanifest", ENGINE]
        return sorted(INDEX if path == "index.html" else path for path in paths)

    def shell(self) -> dict[str, Any]:
        """Return the data for sw.js: {"version", "files": {path: "sha256-..."}, "policies", "snapshots"}.

        The version changes when any file or policy does. "snapshots" names the current memory snapshots, which
        public/boot.mjs stores. Raises FileNotFoundError when a file is missing.
        """
        files = {path: f"sha256-{self._sha256(path)}" for path in self.shell_paths()}
        policies = {
            "document": content_security_policy(self.hub, document=True),
            "other": content_security_policy(self.hub, document=False),
        }
        sources = hashlib.sha256(self._bytes(ENGINE) + self._bytes(WORKER)).hexdigest()
        runtimes = [p["version"] for p in load_lock() if p["name"] == "pyodide"]
        snapshots = {"caches": [f"snapshot-{v}" for v in runtimes], "sources": sources}
        told = json.dumps([files, policies]).encode()
        version = f"{self.version}-{hashlib.sha256(told).hexdigest()[:12]}"
        return {"version": version, "files": files, "policies": policies, "snapshots": snapshots}

    def _bytes(self, path: str) -> bytes:
        data = self.read(path)
        if data is None:
            raise FileNotFoundError(f"the page's file {path} is missing: run ./dev setup")
        return data

    def _sha256(self, path: str) -> str:
        """Return the base64 sha256 of a shell file; cached until the file changes."""
        file = None if path == ENGINE else self.find(path.removeprefix("./"))
        if file is None:
            return _base64_sha256(self._bytes(path))
        stat = file.stat()
        key = (str(file), stat.st_size, stat.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = _base64_sha256(file.read_bytes())
        return self._digests[key]


def _base64_sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def inside(folder: Path, relative: str) -> Path | None:
    """Return the existing file folder/relative, unless it (or a link on the way) leads out of the folder."""
    if "\0" in relative:
        return None
    path = (folder / relative).resolve()
    return path if path.is_file() and path.is_relative_to(folder.resolve()) else None


def engine_zip(root: Path) -> bytes:
    """Return the engine's zip for the browser: the package's Python files with the shaders inside, as in the
    wheel."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((root / "py_engine").rglob("*.py")):
            if not file.stem.endswith("_native"):
                archive.writestr(
                    zipfile.ZipInfo(file.relative_to(root).as_posix()), file.read_bytes()
                )
        for file in sorted((root / "shaders").rglob("*.wgsl")):
            name = f"py_engine/{file.relative_to(root).as_posix()}"
            archive.writestr(zipfile.ZipInfo(name), file.read_bytes())
    return out.getvalue()
