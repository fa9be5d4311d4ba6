"""The page's own files agree: index.html announces the files that the page requests, and they exist."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

from devtools import vendor

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "public" / "index.html"


class Links(html.parser.HTMLParser):
    """The <link>s of a page, as rel -> addresses in order."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link."""
        values = dict(attrs)
        if tag == "link":
            self.found.setdefault(values["rel"] or "", []).append(values["href"] or "")


def test_all_that_the_page_needs_at_once_is_announced() -> None:
    """Each file that is found only after another has loaded costs another round trip."""
    links = Links(PAGE).found
    interface = json.loads((ROOT / "public" / "ui.json").read_text())
    scripts = [interface["interpreter"], *interface["js_modules"]["main"]]
    for package in vendor.load_lock():
        if package["target"] == "pyscript":
            scripts += [f"vendor/pyscript/{n}" for n in package["files"] if n.endswith(".js")]
    fetched = ["vendor/mpy/micropython.wasm", "ui.json", "app/main.py", *interface["files"]]
    assert sorted(links["modulepreload"]) == sorted(scripts)
    assert sorted(links["preload"]) == sorted(fetched)


def test_clicks_are_noted_before_the_pages_python_is_fetched() -> None:
    """Modules run in order, and PyScript's own takes long."""
    text = PAGE.read_text()
    assert -1 < text.find('src="early.mjs"') < text.find('src="vendor/pyscript/core.js"')


def test_every_module_of_the_page_is_listed_for_micropython() -> None:
    listed = set(json.loads((ROOT / "public" / "ui.json").read_text())["files"])
    worker = {"app/worker.py"}
    there = {file.relative_to(ROOT).as_posix() for file in (ROOT / "app").glob("*.py")}
    assert listed == there - worker - {"app/main.py"}


def test_the_manifests_icons_are_what_they_say() -> None:
    """In a PNG file, width and height are bytes 16 to 24."""
    manifest = json.loads((ROOT / "manifest.webmanifest").read_text())
    for key in ("name", "short_name", "start_url", "scope", "background_color", "theme_color"):
        assert manifest[key]
    assert manifest["display"] == "standalone"
    sizes = set()
    for icon in manifest["icons"]:
        data = (ROOT / "public" / icon["src"]).read_bytes()
        if icon["type"] == "image/png":
            width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
            assert icon["sizes"] == f"{width}x{height}"
            sizes.add((icon["purpose"], width))
    assert {("any", 192), ("any", 512), ("maskable", 512)} <= sizes
    (apple,) = Links(PAGE).found["apple-touch-icon"]
    data = (ROOT / "public" / apple).read_bytes()
    assert int.from_bytes(data[16:20], "big") == int.from_bytes(data[20:24], "big") == 180
