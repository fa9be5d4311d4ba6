"""The repository's own commands: vendoring by the lock file, the page server as its clients see it, and `./dev`."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import runpy
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from devtools import build_site, offers, package_models, vendor
from devtools.page_server import PageServer
from devtools.site import HUB, Site, content_security_policy
from py_engine.version import VERSION
from tests.hub_server import hub_server, tiny_model

ROOT = Path(__file__).parent.parent
WEIGHTS = bytes(range(256)) * 256


def fetch(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body, of errors too. `If_None_Match=...` becomes that header."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, headers=sent, method=method)
    try:
        response = urllib.request.urlopen(request, timeout=10)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        headers = {k.lower(): v for k, v in response.headers.items()}
        return response.status, headers, response.read()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    """The repository's own site, with a small model folder and a secret file beside it."""
    folder = tmp_path / "models" / "org" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "hidden").write_text("x")
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    offered = [{"id": "org/tiny", "endpoint": "local"}, {"id": "some/other"}]
    with PageServer(Site(models=tmp_path / "models", offered=offered)) as server:
        yield server


# ---- the page server


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("py_engine/errors.py", "text/x-python"),
        ("shaders/README.md", "text/markdown"),
        ("vendor/mpy/micropython.mjs", "text/javascript"),
        ("vendor/py314/pyodide.asm.wasm", "application/wasm"),
        ("config.json", "application/json"),
    ],
)
def test_serves_each_part_with_its_mime_type(server: PageServer, path: str, kind: str) -> None:
    if path.startswith("vendor/") and not (ROOT / ".vendor").exists():
        pytest.skip("no .vendor here: ./dev test fetches it")
    status, headers, body = fetch(server.url + path)
    assert status == 200
    assert headers["content-type"].startswith(kind)
    assert headers["x-content-type-options"] == "nosniff"
    assert len(body) == int(headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path",
    [
        "dev",
        "pyproject.toml",
        "py_engine/../pyproject.toml",
        "py_engine/%2e%2e/pyproject.toml",
        "%2e%2e/pyproject.toml",
        "vendor//etc/passwd",
        "app/%00",
        ".git/config",
        "models/org/tiny/resolve/main/link",
        "models/org/tiny/resolve/main/..%2f..%2f..%2fsecret",
        "models/..%2f../resolve/main/secret",
        "no/such/file",
    ],
)
def test_serves_nothing_else(server: PageServer, path: str) -> None:
    status, _, body = fetch(server.url + path)
    assert status == 404
    assert b"error" in body


def test_only_documents_may_evaluate(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "index.html").write_text("<!doctype html>")
    (tmp_path / "public" / "worker.mjs").write_text("1")
    with PageServer(Site(root=tmp_path)) as server:
        page = fetch(server.url)[1]["content-security-policy"]
        worker = fetch(server.url + "worker.mjs")[1]["content-security-policy"]
    assert "script-src 'self' 'wasm-unsafe-eval' 'unsafe-eval';" in page
    assert "script-src 'self' 'wasm-unsafe-eval';" in worker
    assert (
        "connect-src 'self' https://huggingface.co https://*.huggingface.co https://*.hf.co" in page
    )
    assert page.replace(" 'unsafe-eval'", "") == worker


def test_another_hub_replaces_the_hubs_hosts() -> None:
    policy = content_security_policy("http://mirror.example:8080/hf", document=False)
    assert "connect-src 'self' http://mirror.example:8080;" in policy
    assert "huggingface" not in policy


def test_config_names_the_endpoint_of_each_model(server: PageServer) -> None:
    config = json.loads(fetch(server.url + "config.json")[2])
    assert config["hub"] == HUB
    assert config["version"] == VERSION
    assert [m["endpoint"] for m in config["models"]] == [server.url + "models", HUB]


def test_the_engine_comes_as_one_zip_without_the_native_half(server: PageServer) -> None:
    names = zipfile.ZipFile(io.BytesIO(fetch(server.url + "engine.zip")[2])).namelist()
    assert {"py_engine/errors.py", "py_engine/shaders/lib/step.wgsl"} <= set(names)
    assert not [n for n in names if "_native" in n or not n.endswith((".py", ".wgsl"))]


# ---- the local hub


@pytest.mark.parametrize("endpoint", ["models/", ""])
def test_lists_a_model_as_the_hub_does(server: PageServer, endpoint: str) -> None:
    url = f"{server.url}{endpoint}api/models/org/tiny"
    listing = json.loads(fetch(url + "/revision/main?blobs=true")[2])
    assert listing["id"] == "org/tiny"
    sizes = {s["rfilename"]: s["size"] for s in listing["siblings"]}
    assert sizes["model.safetensors"] == len(WEIGHTS)
    assert ".cache/hidden" not in sizes
    assert len(listing["sha"]) == 40
    assert json.loads(fetch(url)[2])["sha"] == listing["sha"]
    assert fetch(f"{url}/revision/{listing['sha']}")[0] == 200


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=1000-2999", 1000, 3000), ("bytes=65000-", 65000, 65536)]
    + [("bytes=-100", 65436, 65536), ("bytes=65000-99999", 65000, 65536)],
)
def test_answers_ranges(server: PageServer, asked: str, start: int, end: int) -> None:
    url = server.url + "models/org/tiny/resolve/main/model.safetensors"
    status, headers, body = fetch(url, Range=asked)
    assert status == 206
    assert headers["content-range"] == f"bytes {start}-{end - 1}/65536"
    assert body == WEIGHTS[start:end]


def test_refuses_a_range_beyond_the_end(server: PageServer) -> None:
    url = server.url + "models/org/tiny/resolve/main/model.safetensors"
    status, headers, body = fetch(url, Range="bytes=65536-")
    assert (status, headers["content-range"], body) == (416, "bytes */65536", b"")


def test_head_and_etag(server: PageServer) -> None:
    url = server.url + "models/org/tiny/resolve/main/model.safetensors"
    status, headers, body = fetch(url, "HEAD")
    assert (status, headers["content-length"], body) == (200, "65536", b"")
    assert headers["etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert len(headers["x-repo-commit"]) == 40
    assert fetch(url, If_None_Match=headers["etag"])[0] == 304


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("org/none/resolve/main/config.json", "RepoNotFound"),
        ("org/tiny/resolve/v2/config.json", "RevisionNotFound"),
        ("org/tiny/resolve/main/none.json", "EntryNotFound"),
        ("api/models/org/none", "RepoNotFound"),
    ],
)
def test_says_what_is_missing_as_the_hub_does(server: PageServer, path: str, code: str) -> None:
    status, headers, _ = fetch(server.url + "models/" + path)
    assert (status, headers["x-error-code"]) == (404, code)


# ---- what ./dev run offers


def found_by(site: Site) -> list[dict[str, object]]:
    """The models on offer once everything is found and fetched."""
    looking = offers.Offers(site)
    looking.start(60)
    looking.fetch()
    looking._thread.join(60)
    assert not site.looking
    return site.offered


def test_a_hub_that_answers_gives_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in offers.HUB_MODELS:
        folder = tmp_path / model["id"]
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes(1000))
        (folder / "tokenizer.json").write_bytes(bytes(24))
    monkeypatch.setattr(offers, "folder", lambda model: tmp_path / "absent")
    with PageServer(Site(models=tmp_path)) as server:
        site = Site(hub=server.url + "models")
        offered = found_by(site)
    assert [m["id"] for m in offered] == [m["id"] for m in offers.HUB_MODELS]
    assert offered[0]["size"] == 1024
    assert [m["default"] for m in offered] == [True] + [False] * (len(offered) - 1)
    assert site.fetching == []


def test_a_hub_is_asked_for_sizes_as_the_engine_asks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(tmp_path, bytes(1000))
    monkeypatch.setenv("HF_TOKEN", " hf_x\n")
    with hub_server(tmp_path, token="hf_x") as server:
        assert offers.hub_size(server.url, "org/tiny") == 1000
    for hub in (server.url, "no address", ""):
        assert offers.hub_size(hub, "org/tiny") is None


def test_a_built_page_holds_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_site, "hub_models", lambda hub: [])
    monkeypatch.setattr(sys, "argv", ["build", str(tmp_path)])
    monkeypatch.setenv("HF_ENDPOINT", "https://user:w0rd@hub.example/models/")
    assert build_site.main() == 0
    config = (tmp_path / "config.json").read_text()
    assert "https://hub.example/models" in config and "w0rd" not in config
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    assert build_site.main() == 1


NO_HUB = "http://127.0.0.1:9"


def test_without_a_hub_the_packaged_models_are_fetched_and_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(
        model: package_models.PackagedModel, tell: package_models.Tell
    ) -> Path:  # the real one takes minutes
        if model.kind == "base":
            raise package_models.PackageModelError("no registry")
        out = tmp_path / f"{model.name}-4bit"
        out.mkdir()
        (out / "config.json").write_text("{}")
        return out

    monkeypatch.setattr(offers, "prepare", prepare)
    monkeypatch.setattr(offers, "is_ready", lambda path: False)
    site = Site(hub=NO_HUB)
    offered = found_by(site)
    chats = [model.name for model in package_models.PACKAGED if model.kind == "chat"]
    assert chats[0] == "SmolLM2-135M-Instruct"  # the smallest, so that the first answer comes soon
    assert [m["id"] for m in offered] == [f"local/{name}-4bit" for name in chats]
    assert [m["default"] for m in offered] == [True] + [False] * (len(chats) - 1)
    assert {(m["kind"], m["size"], m["endpoint"]) for m in offered} == {("chat", 2, "local")}
    assert [(m["phase"], m["message"]) for m in site.fetching] == [("failed", "no registry")]


def test_what_is_under_way_is_told_and_given_up_when_the_page_ends(
    packaged: package_models.PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real download by pip, which is stopped before its end."""
    monkeypatch.setattr(offers, "PACKAGED", (packaged,))
    monkeypatch.setattr(
        offers, "prepare", lambda model, tell: package_models.gguf(model, tmp_path / "m", tell)
    )
    real, held, go = vendor.download_wheel, threading.Event(), threading.Event()

    def slow(requirement: str, folder: Path, tell: Callable[[int], object]) -> Path:
        if requirement == packaged.wheels[1]:
            tell(1)
            held.set()
            assert go.wait(60)
        return real(requirement, folder, tell=tell)

    monkeypatch.setattr(package_models, "download_wheel", slow)
    site = Site(hub=NO_HUB)
    looking = offers.Offers(site)
    looking.start(60)
    looking.fetch()
    assert held.wait(60)
    (coming,) = site.config()["fetching"]
    assert (coming["label"], coming["phase"], coming["total"]) == ("Tiny", "fetch", 4)
    assert 2 < coming["done"] <= 4, "the first part, and what has come of the second's wheel"
    looking._stop.set()
    go.set()
    looking.stop()
    assert not looking._thread.is_alive()
    assert site.offered == [] and list((tmp_path / "m" / "gguf").iterdir()) == []


# ---- packaged models


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> package_models.PackagedModel:
    """A model in two wheels, in a folder that pip searches instead of an index."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for number, part in enumerate((b"GG", b"UF"), 1):
        name = f"jerboa_no_such_model_part{number}"
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(shelf / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/data/part0{number}.bin", part)
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return package_models.PackagedModel(
        name="tiny",
        label="Tiny",
        kind="base",
        note="",
        wheels=("jerboa-no-such-model-part1==1.0", "jerboa-no-such-model-part2==1.0"),
        member="*data/part0?.bin",
        nbytes=4,
        sha256=hashlib.sha256(b"GGUF").hexdigest(),
    )


def test_joins_the_parts_of_a_packaged_model(
    packaged: package_models.PackagedModel, tmp_path: Path
) -> None:
    path = package_models.gguf(packaged, tmp_path)
    assert path.read_bytes() == b"GGUF"
    assert [p.name for p in path.parent.iterdir()] == ["tiny.gguf"]


def test_refuses_a_packaged_model_that_is_another(
    packaged: package_models.PackagedModel, tmp_path: Path
) -> None:
    object.__setattr__(packaged, "sha256", "0" * 64)
    with pytest.raises(package_models.PackageModelError, match="sha256"):
        package_models.gguf(packaged, tmp_path)
    assert list((tmp_path / "gguf").iterdir()) == []


# ---- vendoring


def test_every_locked_file_has_a_checksum_and_a_place() -> None:
    packages = vendor.load_lock()
    places = [(p["target"], name) for p in packages for name in p["files"]]
    assert len(places) == len(set(places)) > 20
    for package in packages:
        assert package["registry"] in ("npm", "pypi")
        assert package["group"] in ("run", "test")
        assert all(len(digest) == 64 for digest in package["files"].values())


@pytest.fixture
def wheel_entry(packaged: package_models.PackagedModel) -> vendor.Package:
    """A lock entry of the small wheel above."""
    digest = hashlib.sha256(b"GG").hexdigest()
    return {
        "registry": "pypi",
        "name": "jerboa-no-such-model-part1",
        "version": "1.0",
        "target": "x",
        "group": "run",
        "take": ["*/data/*"],
        "files": {"part01.bin": digest},
    }


def test_vendors_what_the_lock_names_and_only_once(
    wheel_entry: vendor.Package, tmp_path: Path
) -> None:
    out = tmp_path / "vendor"
    assert vendor.install([wheel_entry], out) == 1
    assert (out / "x" / "part01.bin").read_bytes() == b"GG"
    assert vendor.install([wheel_entry], out) == 0
    (out / "x" / "part01.bin").unlink()
    assert vendor.install([wheel_entry], out) == 1


def test_refuses_a_file_with_another_checksum(wheel_entry: vendor.Package, tmp_path: Path) -> None:
    changed = copy.deepcopy(wheel_entry)
    changed["files"]["part01.bin"] = "0" * 64
    with pytest.raises(vendor.VendorError, match=r"part01\.bin has sha256"):
        vendor.install([changed], tmp_path / "vendor")
    assert not (tmp_path / "vendor" / "x").exists()


def test_lock_writes_the_checksums(wheel_entry: vendor.Package, tmp_path: Path) -> None:
    unlocked = {k: v for k, v in wheel_entry.items() if k != "files"}
    zipped = {**unlocked, "zip": "both.zip", "take": ["*/data/*", "*/__init__.py"]}
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"packages": [unlocked, zipped]}))
    vendor.lock(path)
    first, second = vendor.load_lock(path)
    assert first == wheel_entry
    again = vendor.fetch(second)
    vendor.check(second, again)
    names = zipfile.ZipFile(io.BytesIO(again["both.zip"])).namelist()
    assert names == [f"jerboa_no_such_model_part1/{n}" for n in ("__init__.py", "data/part01.bin")]


# ---- the wheel and the command itself


def test_the_wheel_carries_the_shaders_and_nothing_else_of_the_repository(tmp_path: Path) -> None:
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("jerboa-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shaders = {p.relative_to(ROOT).as_posix() for p in (ROOT / "shaders").rglob("*.wgsl")}
    assert {f"py_engine/{name}" for name in shaders} < set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"py_engine", "jerboa"}


def test_dev_explains_itself() -> None:
    done = subprocess.run([sys.executable, "dev"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("run", "test", "lint", "bench"):
        assert f"./dev {command}" in done.stdout


def test_dev_test_sums_up_both_suites_in_its_last_line() -> None:
    closing_line = runpy.run_path(str(ROOT / "dev"))["closing_line"]
    suites = [
        ElementTree.Element("testsuite", tests="9", failures="1", errors="0", skipped="2"),
        ElementTree.Element("testsuite", tests="3", failures="0", errors="0", skipped="0"),
    ]
    assert closing_line(suites, 3.5) == "==== 9 passed, 1 failed, 2 skipped in 3.50s ===="
    assert closing_line([], 0) == "==== no tests ran in 0.00s ===="
    assert closing_line(suites, 3.5, 1).startswith(
        "==== 9 passed, 1 failed, 2 skipped, 1 errors in "
    )
    assert closing_line([], 0, 2) == "==== 2 errors in 0.00s ===="


DEV_SUITES = {
    "good": ("def test_it(): pass", "", 0),
    "empty": ("", "", 0),
    "bad": ("def test_it(): assert False", "failed", 1),
    "broken": ("import nowhere_at_all", "failed, pytest's exit status is 2", 1),
    "crashed": ("import os\ndef test_it(): os._exit(0)", "ended with 0 and reported nothing", 1),
    "killed": ("import os\ndef test_it(): os.kill(os.getpid(), 9)", "was killed by signal 9", 1),
    "endless": ("import time\ndef test_it(): time.sleep(60)", "did not end within 6 s", 1),
}


@pytest.mark.parametrize("kind", DEV_SUITES)
def test_dev_test_says_which_suite_failed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It also says how, for a suite that never reports or never ends. The last line is pytest's, and the exit status is
    right."""
    source, fault, status = DEV_SUITES[kind]
    dev = runpy.run_path(str(ROOT / "dev"))
    inside = dev["test"].__globals__
    for name, text in (("tests", "def test_it(): pass"), ("tests_e2e", source)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test_one.py").write_text(text)
    monkeypatch.setitem(inside, "ROOT", tmp_path)
    monkeypatch.setitem(inside, "SUITES", {name: [name] for name in ("tests", "tests_e2e")})
    monkeypatch.setitem(inside, "lint", lambda: 0)
    monkeypatch.setitem(inside, "interpreter", lambda: sys.executable)
    if kind == "endless":
        monkeypatch.setitem(inside, "SUITE_LIMIT_S", 6)  # the other suite ends within this limit
    assert dev["test"]([]) == status
    told = capsys.readouterr()
    assert told.out.splitlines()[-1].startswith("==== ")
    assert " passed" in told.out.splitlines()[-1]
    assert f"dev: tests_e2e: {fault or 'passed'}" in told.err
    if fault:
        assert "dev: failed: " in told.err and "tests_e2e" in told.err.splitlines()[-1]


def test_dev_needs_nothing_but_python() -> None:
    code = "import runpy; print(sorted(runpy.run_path('dev')))"  # -S: no site-packages
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "setup_venv" in done.stdout


def test_dev_run_prints_its_address_and_serves(tmp_path: Path) -> None:
    """The whole command, with a hub that has its models, so that it fetches nothing."""
    for model in offers.HUB_MODELS:
        (tmp_path / model["id"]).mkdir(parents=True)
        (tmp_path / model["id"] / "config.json").write_text("{}")
        (tmp_path / model["id"] / "model.safetensors").write_bytes(bytes(10))
    with PageServer(Site(models=tmp_path)) as hub:
        env = {**os.environ, "HF_ENDPOINT": hub.url + "models"}
        process = subprocess.Popen(
            [sys.executable, "dev", "--no-setup", "run", "--no-open", "--port", "0"],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            config = json.loads(fetch(address + "config.json")[2])
            assert config["hub"] == hub.url + "models"
            assert config["models"][0]["default"] is True
        finally:
            os.killpg(process.pid, 2)
            assert process.wait(10) in (0, 130)
            process.stdout.close()
