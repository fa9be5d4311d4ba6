"""./dev screenshots [--out FOLDER] [NAME ...]: pictures of the page in headless Chromium; without a folder, those of
docs/.

Real models answer, are stored and crash: the packaged ones (./dev models), on any GPU that Chromium has. With --out
each view is taken on a desktop and on a phone's screen, light and dark, for review.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import (
    BrowserContext,
    Error,
    FilePayload,
    Page,
    Playwright,
    sync_playwright,
)

from devtools.browser_bench import PRESETS
from devtools.offers import packaged_embedders, packaged_models
from devtools.page_server import PageServer
from devtools.page_timing import FLAGS
from devtools.site import ROOT, Site

DOCS = ROOT / "docs"
PATIENCE_MS = 600_000
DESKTOP, PHONE = (1280, 800), (390, 844)
BLIND = [flag for flag in FLAGS if "webgpu" not in flag]  # give no adapter without a GPU
TABLE = """# Three ways to sort

A list of *n* numbers can be sorted **in place** or not; `sorted()` copies.

| way | time | extra memory |
|:--|:-:|--:|
| insertion | n\u00b2 | 1 |
| merge | n log n | n |
| heap | n log n | 1 |

```python
def insertion_sort(numbers: list[int]) -> None:
    for end in range(1, len(numbers)):
        number, at = numbers[end], end
        while at and numbers[at - 1] > number:  # a comment that makes this line too long for a phone's screen
            numbers[at] = numbers[at - 1]
            at -= 1
        numbers[at] = number
```

1. Take the next number.
2. Move the larger ones to its left by one place:
   - while there is one,
   - and it is larger.

> The cost is $\\sum_{i=1}^{n} i = \\frac{n(n+1)}{2}$ moves at worst.

$$T(n) = 2\\,T(n/2) + O(n) \\Rightarrow T(n) = O(n \\log n)$$
"""


class Studio:
    """Opens pages and saves pictures of them. `out`: the folder for all variants; None: only the pictures of
    docs/."""

    def __init__(
        self, playwright: Playwright, url: str, out: Path | None, flags: Sequence[str] = ()
    ) -> None:
        """`flags`: additional flags of Chromium."""
        self.playwright = playwright
        self.url = url
        self.out = out
        self.flags = flags

    @contextmanager
    def profile(self, flags: list[str] = FLAGS, **options: Any) -> Iterator[BrowserContext]:
        """Start a Chromium with an empty profile on disk."""
        path = os.environ.get("JERBOA_CHROMIUM") or shutil.which("chromium")
        with tempfile.TemporaryDirectory(
            prefix="jerboa-screenshots-", ignore_cleanup_errors=True
        ) as folder:
            context = self.playwright.chromium.launch_persistent_context(
                folder,
                executable_path=path,
                args=[*flags, *self.flags],
                service_workers="block",
                **options,
            )
            context.set_default_timeout(PATIENCE_MS)
            yield context
            context.close()

    def open(self, context: BrowserContext, query: str = "") -> Page:
        """Open the page; returns it when its engine runs or it has reported that there is no GPU."""
        page = context.new_page()
        page.goto(self.url + query)
        page.wait_for_selector("body[data-config=ready]")
        page.wait_for_selector("body[data-engine=ready], body[data-engine=none]")
        return page

    def device(self, name: str) -> dict[str, Any]:
        """Return screen, touch and user agent of one of Playwright's devices."""
        options = {**self.playwright.devices[name]}
        options.pop("default_browser_type", None)
        return options

    def take(self, page: Page, view: str, docs: tuple[int, int] | None = None) -> None:
        """Take a picture of the current view. `docs`: the size of the picture in docs/; None: it is not in docs/."""
        if self.out is None:
            if docs:
                self._picture(page, DOCS / f"{view}.png", docs, "light")
            return
        for kind, size in (("desktop", DESKTOP), ("phone", PHONE)):
            for scheme in ("light", "dark"):
                self._picture(page, self.out / f"{view}-{kind}-{scheme}.png", size, scheme)

    def _picture(self, page: Page, file: Path, size: tuple[int, int], scheme: Any) -> None:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)
        page.screenshot(path=file)
        print(file, file=sys.stderr)


def first_visit(studio: Studio) -> None:
    """Show the empty page, a long answer, and the advice to install on a desktop."""
    with studio.profile() as context:
        page = studio.open(context)
        studio.take(page, "first-visit")
        page.evaluate(KEEP, ["chat.long", {"messages": _long_chat()}])
        page.evaluate(KEEP, ["title.long", {"title": "Sorting", "updated": "2026-01-01T00:00:00Z"}])
        page = studio.open(context)
        page.evaluate("document.querySelector('#chats .open').click()")
        page.wait_for_selector(".answer .code")
        studio.take(page, "long-answer")
        page.evaluate("document.querySelector('.new').click()")
        page.click("[data-do=open-settings]")
        page.click("[data-do=install-advice]")
        studio.take(page, "install-desktop", (900, 640))


def chats(studio: Studio) -> None:
    """Show versions of an answer and of a question, an import, and two tabs with one chat."""
    with studio.profile() as context:
        page = studio.open(context, "#chat=versions")
        page.evaluate(TAKE_IN, _versions())
        page.goto(studio.url + "#chat=versions")
        page.reload()
        page.wait_for_selector(".answer .versions")
        studio.take(page, "versions", (900, 640))
        if not studio.out:
            return
        other = studio.open(context, "#chat=versions")
        other.wait_for_selector(".answer .versions")
        page.evaluate(TAKE_IN, _versions("And of a handcart?", "A handcart needs no balance."))
        other.wait_for_function("document.querySelectorAll('.answer').length > 2")
        studio.take(other, "two-tabs")
        other.click("[data-do=open-settings]")
        with other.expect_file_chooser() as chooser:
            other.click("[data-do=import]")
        text = json.dumps({"messages": _long_chat()})
        file = FilePayload(name="sorting.json", mimeType="application/json", buffer=text.encode())
        chooser.value.set_files([file])
        other.wait_for_selector("#hint:not([hidden])")
        studio.take(other, "import")
        other.click("[data-do=open-settings]")
        other.evaluate("document.querySelector('#data-note').closest('fieldset').scrollIntoView()")
        studio.take(other, "import-settings")
        other.keyboard.press("Escape")
        with other.expect_file_chooser() as chooser:
            other.evaluate("document.querySelector('[data-do=import]').click()")
        file = FilePayload(name="config.json", mimeType="application/json", buffer=b"{}")
        chooser.value.set_files([file])
        other.wait_for_selector("#notice:not([hidden])")
        studio.take(other, "import-refused")


TAKE_IN = """async chat => (await import('./chat_store.mjs')).takeIn(JSON.stringify(chat))"""


def picture(studio: Studio) -> None:
    """Show a picture in a chat, one that is being attached, one that is refused, and the large view; also from right to
    left."""
    with studio.profile() as context:
        page = studio.open(context)
        dunes, night = page.evaluate(PAINT, False), page.evaluate(PAINT, True)
        page.evaluate(TAKE_IN, _seen(f"data:image/png;base64,{dunes}"))
        page = studio.open(context, "#chat=seen")
        page.wait_for_selector(".user .pictures img[src]")
        _attach(page, ("night.png", base64.b64decode(night)))
        page.fill("#attached .alt", "The same dunes at night")
        page.fill("#prompt", "And this one?")
        studio.take(page, "picture", (900, 760))
        if not studio.out:
            return
        _attach(page, ("notes.txt", b"no picture"), ("dunes.png", base64.b64decode(dunes)))
        page.wait_for_selector("#attach-problem:not([hidden])")
        page.evaluate("document.documentElement.dir = 'rtl'")
        studio.take(page, "picture-refused-rtl")
        page.evaluate("document.documentElement.dir = ''")
        page.click(".user .pictures button")
        page.wait_for_selector("#picture-large[src]")
        studio.take(page, "picture-large")


def documents(studio: Studio) -> None:
    """Show the choice of an embedder, documents that are read, an answer with its sources, and a passage."""
    with studio.profile() as context:
        page = studio.open(context, "?context=1024")
        page.evaluate("document.querySelector('#hero-picker .choice input').click()")
        page.click("#hero-picker button[type=submit]")
        page.wait_for_selector("body[data-model=ready]")
        files = [
            FilePayload(name=name, mimeType="text/plain", buffer=text.encode())
            for name, text in LETTERS.items()
        ]
        _choose(page, "pick-documents", files)
        page.wait_for_selector("#embedder[open] .choice")
        studio.take(page, "embedder")
        page.click("#embedder [type=submit]")
        page.wait_for_selector(".document.adds")
        studio.take(page, "documents-adding")
        page.wait_for_function("document.querySelectorAll('.document.kept').length === 3")
        page.evaluate(SETTINGS, {"max_tokens": 48, "temperature": 0})
        page.fill("#prompt", "When do I get the keys of the new flat?")
        page.press("#prompt", "Enter")
        page.wait_for_selector(".answer:not(.streaming) .sources button")
        studio.take(page, "documents", DESKTOP)
        page.click(".sources button")
        page.wait_for_selector("#passage[open]")
        studio.take(page, "passage")


LETTERS = {
    "moving.md": """# Moving

## The flat

The keys of the new flat are handed over on Tuesday the 3rd of March at nine, by Mrs. Okafor, at the flat itself.

## The van

A van is booked for Wednesday from eight to two. It holds twelve cubic metres.
""",
    "lease.txt": "The lease begins on the first of March. The rent is due on the third working day of each month.\n",
    "bicycle.md": "# The bicycle\n\nThe chain is oiled every two hundred kilometres. The brakes are for spring.\n",
}
SETTINGS = """values => {
  for (const [name, value] of Object.entries(values)) {
    const box = document.querySelector(`#settings-form [name=${name}]`);
    box.value = value;
    box.dispatchEvent(new Event('change', {bubbles: true}));
  }
}"""


def _attach(page: Page, *files: tuple[str, bytes]) -> None:
    """Attach pictures to the message."""
    given = [FilePayload(name=name, mimeType="image/png", buffer=body) for name, body in files]
    _choose(page, "pick-pictures", given)
    page.wait_for_selector("#attached img[src]")


def _choose(page: Page, action: str, files: Sequence[FilePayload | Path]) -> None:
    """Choose files by a button of the message box."""
    page.click("#attach summary")
    with page.expect_file_chooser() as chooser:
        page.click(f"[data-do={action}]")
    chooser.value.set_files(files)  # type: ignore[arg-type]


# A desert with a sun, or at night a moon; as PNG in base64.
PAINT = """night => {
  const canvas = document.createElement('canvas'); canvas.width = 960; canvas.height = 640;
  const c = canvas.getContext('2d');
  const fill = (from, to, top, bottom) => {
    const g = c.createLinearGradient(0, top, 0, bottom); g.addColorStop(0, from); g.addColorStop(1, to); return g; };
  c.fillStyle = fill(...night ? ['#0d1330', '#3b3a63'] : ['#7fb6d9', '#fbe3bd'], 0, 420); c.fillRect(0, 0, 960, 640);
  c.fillStyle = night ? '#f3efd9' : '#fff3c4'; c.beginPath(); c.arc(night ? 220 : 700, 150, 56, 0, 7); c.fill();
  [['#e0a868', '#c8864a', 380, 70, 0], ['#cf8f50', '#a8642c', 450, 90, 2], ['#b87338', '#7d4519', 540, 60, 4]].forEach(
    ([from, to, base, height, phase]) => {
      c.fillStyle = fill(from, to, base - height, 640); c.beginPath(); c.moveTo(0, 640);
      for (let x = 0; x <= 960; x += 8) c.lineTo(x, base - height * Math.sin(x / 230 + phase) ** 2);
      c.lineTo(960, 640); c.fill(); });
  if (night) { c.fillStyle = 'rgb(10 14 40 / 55%)'; c.fillRect(0, 300, 960, 340); }
  return canvas.toDataURL().split(',')[1];
}"""


def _seen(url: str) -> dict[str, Any]:
    """Return a chat that begins with a picture. It holds no answer: none of the packaged models sees pictures."""
    picture = {"url": url, "name": "dunes.png", "alt": "Sand dunes under a low sun"}
    question = {"id": "q", "parent": "", "role": "user", "content": "What is in this picture?"}
    return {"id": "seen", "title": "", "messages": [{**question, "pictures": [picture]}]}


def _versions(*more: str) -> dict[str, Any]:
    """Return a chat in which a question was edited and an answer given three times; `more`: turns at its end."""
    stats = {"tps": 43.0, "ttft_s": 0.18, "tokens": 57, "finish": "stop"}
    answers = (
        "By steering. A rider who begins to fall to the left turns the wheel to the left for a moment.",
        "It is the rider who holds it up, with small turns of the wheel.",
        "A moving bicycle is steered *into* each fall:\n\n1. It leans to one side.\n"
        "2. The front wheel turns to that side.\n3. The wheels come back under the rider.\n\n"
        "Above about 15 km/h many bicycles do this **without a rider**.",
    )
    found: list[dict[str, Any]] = [
        {"id": "q1", "parent": "", "role": "user", "content": "How do bicycles work?"},
        {
            "id": "q2",
            "parent": "",
            "role": "user",
            "content": "Explain how a bicycle stays upright",
        },
    ]
    for i, text in enumerate(answers):
        found.append(
            {
                "id": f"a{i}",
                "parent": "q2",
                "role": "assistant",
                "content": text,
                "model": "Qwen3 0.6B",
                "stats": stats,
            }
        )
    found.append({"id": "q3", "parent": "a2", "role": "user", "content": "And a unicycle?"})
    text = "The same way, but its rider also has to pedal to keep the wheel below the body."
    found.append(
        {
            "id": "a9",
            "parent": "q3",
            "role": "assistant",
            "content": text,
            "model": "Qwen3 0.6B",
            "stats": stats,
        }
    )
    for i, text in enumerate(more):
        role = "assistant" if i % 2 else "user"
        found.append(
            {
                "id": f"m{i}",
                "parent": found[-1]["id"],
                "role": role,
                "content": text,
                "stats": stats,
            }
        )
    return {"id": "versions", "title": "", "messages": found}


KEEP = "([key, value]) => localStorage.setItem('jerboa.' + key, JSON.stringify(value))"


def _long_chat() -> list[dict[str, Any]]:
    stats = {"tps": 41.2, "ttft_s": 0.31, "tokens": 412, "finish": "stop"}
    call = {"name": "look_up", "arguments": json.dumps({"topic": "sorting", "depth": 2})}
    return [
        {"role": "user", "content": "How can I sort a list of numbers? With code and the cost."},
        {
            "role": "assistant",
            "content": TABLE,
            "model": "Qwen3 0.6B",
            "reasoning": "They want an overview.",
            "thought_s": 3.2,
            "stats": stats,
            "tool_calls": [{"id": "1", "type": "function", "function": call}],
        },
    ]


def chat(studio: Studio) -> None:
    """Show the README's picture: the default model has answered."""
    with studio.profile() as context:
        page = studio.open(context)
        page.click("#hero-picker button[type=submit]")
        page.wait_for_selector("body[data-model=ready]")
        page.fill("#prompt", "Write a Python function that reverses a string. Keep it short.")
        page.press("#prompt", "Enter")
        page.wait_for_selector(".message:last-child.answer .stats:not(:empty)")
        page.wait_for_selector(".answer.streaming", state="detached")
        page.wait_for_timeout(500)  # the code gets its colours
        studio.take(page, "screenshot", DESKTOP)


def install(studio: Studio) -> None:
    """Show the advice before a large download on an iPhone."""
    phone = studio.device("iPhone 15")
    phone["device_scale_factor"] = 1.5  # sharp enough, and a smaller file
    with studio.profile(**phone) as context:
        page = studio.open(context)
        page.click("#hero-picker button[type=submit]")
        page.wait_for_selector("#hint:not([hidden])")
        studio.take(page, "install-iphone", PHONE)


def loaded(studio: Studio) -> None:
    """Show loading, answering, the stored models, and the notice after a crash."""
    with studio.profile() as context:
        page = studio.open(context, "?context=512")
        page.evaluate("document.querySelector('#hero-picker .choice:last-child input').click()")
        page.click("#hero-picker button[type=submit]")
        page.wait_for_function("document.querySelector('#load-bar').value > 0.3")
        studio.take(page, "loading")
        page.wait_for_selector("body[data-model=ready]")
        if studio.out:
            answer(studio, page)
        page.click("#model")
        page.evaluate("document.querySelector('#dialog-picker .choice input').click()")
        page.click("#dialog-picker button[type=submit]")
        page.wait_for_function("document.querySelector('#load-bar').value > 0.5")
        with page.expect_event("crash"), contextlib.suppress(Error):
            page.goto("chrome://crash")
        page.close()
        page = studio.open(context)
        page.wait_for_selector("#notice:not([hidden])")
        studio.take(page, "recovery", (900, 640))
        page.click("#notice [data-do=dismiss]")
        page.click("[data-do=open-settings]")
        page.wait_for_selector("#stored li")
        studio.take(page, "settings")
        page.evaluate("document.querySelector('#stored').closest('fieldset').scrollIntoView()")
        studio.take(page, "storage-panel", (900, 640))
        page.click("#stored [data-do=delete-model]")
        page.wait_for_selector("#confirm[open]")
        studio.take(page, "storage-confirm")


def answer(studio: Studio, page: Page) -> None:
    """Let the model answer, and stop it."""
    studio.take(page, "ready")
    page.fill("#prompt", "Once upon a time in the desert, a small jerboa")
    page.press("#prompt", "Enter")
    page.wait_for_function("document.querySelector('.answer .text').textContent.length > 60")
    studio.take(page, "answering")
    page.evaluate("document.querySelector('#stop').click()")
    studio.take(page, "stopped")


def no_gpu(studio: Studio) -> None:
    """Show a browser that has WebGPU and no adapter, and one without WebGPU."""
    with studio.profile(BLIND) as context:
        studio.take(studio.open(context), "no-adapter")
        context.add_init_script("delete Navigator.prototype.gpu")
        studio.take(studio.open(context), "no-webgpu")


def diagnostics(studio: Studio) -> None:
    """Show the page /diagnostics after a run of some tests."""
    with studio.profile() as context:
        page = context.new_page()
        page.goto(studio.url + "diagnostics?tests=same-pipeline,bind-groups,bisect&most=2&run")
        page.wait_for_function(
            "/^(Done|It ended)/.test(document.querySelector('#state').textContent)",
        )
        studio.take(page, "diagnostics", (1000, 1150))


VIEWS: dict[str, Callable[[Studio], None]] = {
    "first-visit": first_visit,
    "chat": chat,
    "chats": chats,
    "picture": picture,
    "documents": documents,
    "install": install,
    "loaded": loaded,
    "no-gpu": no_gpu,
    "diagnostics": diagnostics,
}


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="./dev screenshots", description=__doc__)
    parser.add_argument("--out", type=Path, help="every view in four variants, into this folder")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="plain", help="sets of Chromium's flags"
    )
    parser.add_argument("views", nargs="*", metavar="NAME", help=f"of {', '.join(VIEWS)}")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.views) - set(VIEWS):
        parser.error(f"no view {', '.join(unknown)}: there are {', '.join(VIEWS)}")
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
    models = packaged_models()
    with (
        PageServer(Site(offered=models, embedders=packaged_embedders())) as server,
        sync_playwright() as playwright,
    ):
        for name in asked.views or VIEWS:
            VIEWS[name](Studio(playwright, server.url, asked.out, PRESETS[asked.preset]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
