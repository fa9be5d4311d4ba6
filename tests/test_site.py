"""The files that a page stores for use without a network: a list made from what is served, with checksums, by
version.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from urllib.parse import urljoin

import pytest

from devtools.build_site import build
from devtools.page_server import PageServer
from devtools.site import ROOT, Site
from tests.test_dev import fetch

pytestmark = pytest.mark.skipif(
    not (ROOT / ".vendor" / "py314").exists(), reason="no .vendor here: ./dev test fetches it"
)


def test_the_shell_is_what_is_served() -> None:
    with PageServer(Site()) as server:
        first, _, _ = fetch(server.url + "sw.js")[2].decode().partition("\n")
        shell = json.loads(first.removeprefix("const SHELL = ").removesuffix(";"))
        for path, integrity in shell["files"].items():
            status, _, body = fetch(urljoin(server.url, path))
            assert status == 200, path
            assert integrity == "sha256-" + base64.b64encode(hashlib.sha256(body).digest()).decode()


def test_the_shell_has_all_that_a_page_and_its_workers_name() -> None:
    """Every path to one of our files in index.html, ui.json and the modules."""
    kept = set(Site().shell_paths())
    named = set()
    for file in (ROOT / "public").iterdir():
        if file.suffix in (".mjs", ".html", ".json", ".css"):
            named |= set(
                re.findall(r"""["'(`](?:\./)?([\w./-]+\.[a-z]\w*)["')`]""", file.read_text())
            )
    named = {path for path in named if Site().read(path) is not None} - {"sw.js", "index.html"}
    assert len(named) > 30
    assert named <= kept
    for runtime in ("pyodide.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json"):
        assert f"vendor/py314/{runtime}" in kept
    assert any(path.startswith("vendor/wheels/jinja2") for path in kept)
    assert {"./", "engine.zip", "vendor/tokenizers/index.js"} <= kept
    assert not [path for path in kept if path.startswith(("models", "vendor/py27"))]


def test_the_version_follows_every_file_and_the_policy(tmp_path: Path) -> None:
    for name in ("public", "app"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("sw.js", "manifest.webmanifest"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (".vendor", "shaders"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "py_engine").mkdir()
    site = Site(root=tmp_path)
    seen = [site.shell()["version"], Site(root=tmp_path, hub="http://x").shell()["version"]]
    assert Site(root=tmp_path).shell()["version"] == seen[0]
    for path in ("app/hero.py", "public/new.txt", "py_engine/new.py", "manifest.webmanifest"):
        (tmp_path / path).write_text("changed")
        seen.append(site.shell()["version"])
    assert len(set(seen)) == len(seen)


def test_a_built_site_is_the_served_one(tmp_path: Path) -> None:
    site = Site(offered=[{"id": "org/model", "default": True}])
    build(site, tmp_path)
    with PageServer(site) as server:
        for file in tmp_path.rglob("*"):
            if file.is_file():
                path = file.relative_to(tmp_path).as_posix()
                assert file.read_bytes() == fetch(server.url + path)[2], path
    assert (tmp_path / "index.html").exists() and (tmp_path / "sw.js").exists()
