"""The page on a plain static host, as `./dev build` writes it, in versions that tests can tell apart."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devtools.build_site import build
from devtools.site import ROOT, Site

# The parts of a worker that starts now: its own script's text, an import, a fetched file.
PARTS = """() => new Promise(done => {
  const worker = new Worker('echo.mjs', {type: 'module'});
  worker.onmessage = ({data}) => done(data);
})"""
ECHO = "import { word } from './word.mjs'; const own = '{0}';\n" + (
    "const text = await (await fetch('word.txt')).text(); self.postMessage([own, word, text]);"
)


class Published:
    """A site on a plain static host, without a policy, whose version changes. Three files and the title hold the
    version's word. `faults`: how the host spoils its answers, by file name: "cut", "wrong" or "500"."""

    def __init__(self, folder: Path) -> None:
        self.faults: dict[str, str] = {}
        self.site = Site(root=folder / "site")
        self.out = folder / "host" / "some" / "app"
        for name in ("public", "app"):
            shutil.copytree(ROOT / name, self.site.root / name)
        for name in ("sw.js", "manifest.webmanifest"):
            shutil.copy(ROOT / name, self.site.root)
        for name in (".vendor", "py_engine", "shaders"):
            (self.site.root / name).symlink_to(ROOT / name)

    def publish(self, word: str) -> None:
        """Publish a new version."""
        public = self.site.root / "public"
        (public / "echo.mjs").write_text(ECHO.replace("{0}", word))
        (public / "word.mjs").write_text(f"export const word = '{word}';")
        (public / "word.txt").write_text(word)
        page = (ROOT / "public" / "index.html").read_text()
        (public / "index.html").write_text(page.replace("<title>Jerboa", f"<title>{word}"))
        build(self.site, self.out)


class StaticHandler(http.server.SimpleHTTPRequestHandler):
    """A silent handler that can spoil its answers."""

    def __init__(self, faults: dict[str, str], *args: Any, **options: Any) -> None:
        self.faults = faults
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        """Answer with a file, or with its fault."""
        file = Path(self.translate_path(self.path))
        fault = self.faults.get(file.name)
        if not fault:
            return super().do_GET()
        body = file.read_bytes()
        self.send_response(500 if fault == "500" else 200)
        self.send_header("Content-Type", self.guess_type(self.path))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[::-1] if fault == "wrong" else body[: len(body) // 2])

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: the terminal belongs to pytest."""


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[Published, str]]:
    """The site in a host's folder, and its address."""
    site = Published(tmp_path)
    site.publish("one")
    handler = functools.partial(StaticHandler, site.faults, directory=str(tmp_path / "host"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield site, f"http://localhost:{server.server_address[1]}/some/app/"
    server.shutdown()
    server.server_close()
