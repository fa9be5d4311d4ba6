"""Every snippet of README and docs runs as written. A server that behaves like the hub serves the hub ids in them, each
with a tiny checkpoint.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from py_engine.models import families
from tests import chat_formats, reference
from tests.checkpoints import Checkpoint
from tests.conftest import software_adapter
from tests.hub_server import hub_server
from tests.test_convert import model as gguf_model

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "shaders" / "README.md"]
HUB_ID = re.compile(
    r"\b(?:mlx-community|LiquidAI|Qwen|HuggingFaceTB|sentence-transformers|cross-encoder|facebook)/[\w.-]+"
)
SLOW = ("jerboa doctor --probes",)


@dataclass(frozen=True)
class Snippet:
    """A fenced block: its place, its language, its text."""

    place: str
    language: str
    text: str


def snippets() -> Iterator[Snippet]:
    """The snippets that run. Other blocks (trees, formats) have no language, or another one."""
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: found.start()].count("\n") + 1
            place = f"{page.relative_to(ROOT)}:{line}"
            yield Snippet(place, found[1], found[2])


def commands() -> Iterator[tuple[str, str]]:
    """Every line of the `sh` blocks, with its place, without its comment."""
    for snippet in snippets():
        for line in snippet.text.splitlines() if snippet.language == "sh" else ():
            words = shlex.split(line, comments=True)
            if words:
                yield snippet.place, shlex.join(words)


PYTHON = [s for s in snippets() if s.language == "python"]
COMMANDS = list(commands())
OURS = [(place, line) for place, line in COMMANDS if line.startswith("jerboa ")]
DEV = [(place, line) for place, line in COMMANDS if line.startswith("./dev ")]
# These run in other tests, or only with files that another line made.
OTHERS = {
    "pip install .": "tests/test_api.py installs the wheel",
    "python -m devtools.token_time runs.jsonl docs/token-time.svg": "wants what ./dev bench saved",
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The hub's address. It has every id that any snippet names."""
    root = tmp_path_factory.mktemp("hub")
    like = {
        "sentence-transformers/": "bert-f32",
        "cross-encoder/": "rerank-bert",
        "Qwen/Qwen3-Reranker": "rerank-qwen3",
        "google/embeddinggemma": "encoder-gemma3-mlx4-g32",
        "mlx-community/embeddinggemma": "encoder-gemma3-mlx4-g32",
    }
    for name in {name for page in PAGES for name in HUB_ID.findall(page.read_text())}:
        given = next((folder for start, folder in like.items() if name.startswith(start)), None)
        if given:
            shutil.copytree(reference.folder(given), root / name)
            continue
        if "-VL-" in name:
            shutil.copytree(reference.folder("lfm2-seen"), root / name)
            continue
        if "/dinov2" in name:
            shutil.copytree(reference.folder("dinov2-tower"), root / name)
            continue
        checkpoint = Checkpoint.golden("qwen2-mlx4-g64")
        checkpoint.keep_layers(0)
        checkpoint.config["max_position_embeddings"] = 40960
        (root / name).parent.mkdir(exist_ok=True)
        checkpoint.write(root / name)
        chat_formats.write("qwen3", root / name)
    with hub_server(root) as server:
        yield server.url


@pytest.fixture
def start(hub: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs a command as after `pip install`, in a folder of its own that holds a GGUF file and a picture."""
    installed, here = tmp_path / "installed", tmp_path / "here"
    installed.mkdir()
    here.mkdir()
    (installed / "jerboa").symlink_to(ROOT / "devtools" / "jerboa")
    script = (
        f"#!{sys.executable}\nimport sys\nfrom py_engine.__main__ import main\nsys.exit(main())\n"
    )
    (installed / "bin").mkdir()
    (installed / "bin" / "jerboa").write_text(script)
    (installed / "bin" / "jerboa").chmod(0o755)
    (here / "model.gguf").write_bytes(gguf_model("qwen2"))
    Image.new("RGB", (64, 48), (200, 30, 40)).save(here / "picture.png")

    def start(*command: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub,
            "PYTHONPATH": f"{installed}{os.pathsep}{ROOT}",
            "MYPYPATH": f"{installed}{os.pathsep}{ROOT}",
            "PATH": f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        return subprocess.run(
            command, cwd=here, env=environment, capture_output=True, text=True, timeout=300
        )

    with software_adapter("wgpu"):
        yield start


def test_there_are_snippets_of_each_kind() -> None:
    """Without snippets the tests below would test nothing."""
    assert len(PYTHON) >= 4 and len(OURS) >= 10 and len(DEV) >= 5
    known = {line for _, line in [*OURS, *DEV]} | set(OTHERS)
    assert [line for _, line in COMMANDS if line not in known] == []


@pytest.mark.parametrize("snippet", PYTHON, ids=lambda s: s.place)
def test_python_runs(
    snippet: Snippet, start: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file = tmp_path / "snippet.py"
    file.write_text(snippet.text)
    done = start(sys.executable, "-W", "error", str(file))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), "it prints something"


def test_python_is_typed(
    start: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """The snippets pass a user's mypy."""
    files = []
    for number, snippet in enumerate(PYTHON):
        files.append(tmp_path / f"snippet{number}.py")
        files[-1].write_text(snippet.text)
    mypy = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--check-untyped-defs"]
    cache = ["--config-file", os.devnull, "--cache-dir", str(tmp_path / "cache")]
    done = start(*mypy, *cache, *map(str, files))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("place", "line"), OURS, ids=lambda v: v)
def test_the_command_line_runs(
    place: str,
    line: str,
    start: Callable[..., subprocess.CompletedProcess[str]],
    skip_unless_slow: Callable[[], None],
) -> None:
    if line in SLOW:
        skip_unless_slow()
    for name in HUB_ID.findall(line) if line.startswith("jerboa cache") else ():
        assert (
            start("jerboa", "generate", name, "--prompt", "a", "--max-tokens", "1").returncode == 0
        )
    done = start("sh", "-c", line)
    assert done.returncode == 0, f"{place}: {done.stderr[-3000:]}"


@pytest.mark.parametrize(("place", "line"), DEV, ids=lambda v: v)
def test_what_is_said_of_dev_is_known_to_it(place: str, line: str) -> None:
    """These commands take long, or serve until they are stopped, so their words are compared with the command's own
    help."""
    _, command, *words = shlex.split(line)
    text = subprocess.run([sys.executable, "dev"], cwd=ROOT, capture_output=True, text=True).stdout
    assert f"./dev {command}" in text, f"{place}: {line}"
    modules = {"--rows": "devtools.bench_rows", "--browser": "devtools.browser_bench"}
    module = next((m for option, m in modules.items() if option in words), None)
    help_of = [module] if module else ["py_engine", "bench"]
    if command == "bench":
        asked = [sys.executable, "-m", *help_of, "--help"]
        text += subprocess.run(asked, cwd=ROOT, capture_output=True, text=True).stdout
    options = [word for word in words if word.startswith("--")]
    assert [option for option in options if option not in text] == [], f"{place}: {line}"


def test_the_table_of_families_names_all_and_says_what_each_file_says() -> None:
    """The table in README: its "tried with" column is the end of each family's docstring."""
    rows = re.findall(
        r"^\| (`[a-z].*?) \| .*? \| (.*?) \|$", (ROOT / "README.md").read_text(), re.M
    )
    tried = {name: cell for names, cell in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert tried.keys() >= families().keys()
    for name, file in families().items():
        said = " ".join((import_module(f"py_engine.models.{file}").__doc__ or "").split())
        first = tried[name].partition(",")[0]
        assert first in said.partition("Tried with: ")[2], (name, tried[name], said)
