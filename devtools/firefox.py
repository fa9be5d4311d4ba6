"""A current Firefox, for the tests and for `./dev bench --browser --firefox`.

It is the one that JERBOA_FIREFOX names, else the system's if that is new enough. Debian stable's is not: it refuses
WebGPU. There, as root, Firefox from Debian unstable is installed into a separate folder, and runs inside it (chroot)
with /proc, /dev and the profile mounted. The mounts belong to the browser's own mount namespace. They end with the
browser, so deleting the folder deletes nothing else.

    python -m devtools.firefox install      find or make one; exit status 0 if there is one

Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OLDEST = 141  # the first release with WebGPU; on Linux it must be enabled by preferences
NAMES = ("firefox", "firefox-esr")
FOLDER = Path("/var/cache/jerboa/firefox-sid")  # about 900 MB; CI keeps it from run to run
STAMP = "var/firefox-is-here"  # inside the folder, written last
MAX_AGE_S = 30 * 86400.0  # after this, the folder is made again with a newer Firefox
MAKING_S = 900.0  # a folder never takes this long to make
PACKAGES = ("firefox", "mesa-vulkan-drivers")  # the second is lavapipe
MIRROR = "http://deb.debian.org/debian"
SUITE = "sid"
NEEDED = ("debootstrap", "unshare", "chroot", "mount")

# WebGPU is off by default in Firefox on Linux; the other preferences suppress first-run pages and requests.
PREFERENCES: tuple[tuple[str, str], ...] = (
    ("dom.webgpu.enabled", "true"),
    ("dom.webgpu.workers.enabled", "true"),
    ("gfx.webgpu.force-enabled", "true"),
    ("gfx.webgpu.ignore-blocklist", "true"),
    ("browser.shell.checkDefaultBrowser", "false"),
    ("browser.aboutwelcome.enabled", "false"),
    ("browser.sessionstore.resume_from_crash", "false"),
    ("datareporting.policy.dataSubmissionEnabled", "false"),
    ("toolkit.startup.max_resumed_crashes", "-1"),
    ("app.update.auto", "false"),
)

INSIDE = """set -e
root=$1; profile=$2; shift 2
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$profile" "$root/mnt"
exec chroot "$root" "$@"
"""


class NoFirefox(Exception):
    """There is no Firefox; the message says why."""


@dataclass(frozen=True)
class Firefox:
    """A Firefox that can be started."""

    binary: str
    version: int
    root: Path | None = None  # the root folder for chroot; None: the system

    def start(
        self,
        profile: Path,
        arguments: Sequence[str],
        log: Path | None = None,
        preferences: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a headless process in its own process group, on a profile folder that is made if it does not exist.
        `log`: where its stdout and stderr go; None: stderr is a pipe. `preferences`: added to PREFERENCES."""
        profile.mkdir(parents=True, exist_ok=True)
        wanted = dict(PREFERENCES) | dict(preferences or {})
        lines = [f'user_pref("{name}", {value});' for name, value in wanted.items()]
        (profile / "user.js").write_text("\n".join(lines))
        place = str(profile) if self.root is None else "/mnt"
        command = [self.binary, "--headless", "--no-remote", "--profile", place, *arguments]
        environment = {**os.environ, "MOZ_DISABLE_CONTENT_SANDBOX": "1"}
        if self.root is not None:
            command = ["sh", "-c", INSIDE, "sh", str(self.root), str(profile), *command]
            command = ["unshare", "--mount", *command]
            environment |= {"HOME": "/root", "LC_ALL": "C.UTF-8", "TMPDIR": "/tmp"}
            for name in ("VK_ICD_FILENAMES", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"):
                environment.pop(name, None)
            environment["VK_DRIVER_FILES"] = "/usr/share/vulkan/icd.d/lvp_icd.json"
        with contextlib.ExitStack() as files:
            out = files.enter_context(log.open("ab")) if log else None
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out or subprocess.DEVNULL,
                stderr=out or subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )


def version_of(command: Sequence[str]) -> int:
    """Return the version in `Mozilla Firefox 159.0`; 0 if the command does not print one."""
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"Firefox (\d+)", done.stdout)
    return int(found[1]) if found else 0


def system_firefox() -> Firefox | None:
    """Return the Firefox of JERBOA_FIREFOX or of PATH, if it is new enough."""
    named = os.environ.get("JERBOA_FIREFOX", "")
    for name in [named] if named else NAMES:
        path = shutil.which(name)
        if path and (version := version_of([path])) >= OLDEST:
            return Firefox(path, version)
    if named:
        raise NoFirefox(f"JERBOA_FIREFOX={named} is no Firefox of version {OLDEST} or newer")
    return None


def kept_firefox(folder: Path = FOLDER) -> Firefox | None:
    """Return the Firefox in the folder, if the folder is complete."""
    stamp = folder / STAMP
    if not stamp.is_file() or os.geteuid() != 0:
        return None
    return Firefox("firefox", int(stamp.read_text()), folder)


def find(patience_s: float = MAKING_S) -> Firefox:
    """Return the Firefox to use. If one is being made, wait for it, at most `patience_s`. Raises NoFirefox."""
    if found := system_firefox():
        return found
    if FOLDER.parent.is_dir() and os.access(FOLDER.parent, os.W_OK):
        with lock(FOLDER, patience_s):
            if found := kept_firefox():
                return found
    raise NoFirefox(
        f"no Firefox of version {OLDEST} or newer: name one in JERBOA_FIREFOX, or let `./dev test --firefox` fetch "
        "it (on Debian, as root; what became of that is in .cache/firefox.log)"
    )


@contextlib.contextmanager
def lock(folder: Path, patience_s: float) -> Iterator[None]:
    """Let only one process at a time make the folder. Raises NoFirefox after `patience_s`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_s
    with Path(f"{folder}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise NoFirefox(
                        f"another process has been making {folder} for {patience_s:g} s"
                    ) from None
                time.sleep(0.5)
        yield


# ---- making the folder


def install() -> Firefox:
    """Find a Firefox, or make the folder. Raises NoFirefox."""
    if found := system_firefox():
        return found
    refusal = why_not_here()
    if refusal:
        raise NoFirefox(refusal)
    with lock(FOLDER, MAKING_S):
        kept = kept_firefox()
        if kept and time.time() - (FOLDER / STAMP).stat().st_mtime < MAX_AGE_S:
            return kept
        try:
            make(FOLDER)
        except NoFirefox:
            if not kept:
                raise
            return kept  # an older one is better than none
        made = kept_firefox()
    if not made:
        raise NoFirefox(f"{FOLDER} was made and has no Firefox")
    return made


def why_not_here() -> str:
    """Return why no folder can be made on this machine, "" if it can."""
    try:
        system = platform.freedesktop_os_release().get("ID", "")
    except OSError:
        system = sys.platform
    if system != "debian":
        return f"only on Debian a Firefox can be fetched, this is {system}"
    if os.geteuid() != 0:
        return "fetching a Firefox of Debian unstable needs root (debootstrap, chroot)"
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing:
        return "apt-get install " + " ".join(missing)
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "this machine lets nobody mount (unshare --mount fails)"
    return ""


def make(folder: Path) -> None:
    """Install Debian unstable with Firefox beside the folder, then move it into place. Raises NoFirefox."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    settings = apt_settings()
    script = f"""set -e
debootstrap --variant=minbase --include=ca-certificates {SUITE} "$1" {MIRROR}
printf '%s' "$2" > "$1/etc/apt/apt.conf.d/99host"
mountpoint -q "$1/proc" || mount --bind /proc "$1/proc"
mount --rbind /dev "$1/dev"
chroot "$1" apt-get update -qq
chroot "$1" apt-get install -y -qq --no-install-recommends {" ".join(PACKAGES)}
chroot "$1" apt-get clean
rm -rf "$1"/var/lib/apt/lists/* "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/*
"""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    if proxy := re.search(r'Acquire::http::Proxy "([^"]+)"', settings):
        environment.setdefault("http_proxy", proxy[1])
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(new), settings]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env=environment,
            timeout=MAKING_S,
        )
    except subprocess.TimeoutExpired:
        raise NoFirefox(f"making {folder} took longer than {MAKING_S:g} s") from None
    if done.returncode:
        raise NoFirefox(f"making {folder} failed: its log stands above")
    version = packaged_version(new)
    if version < OLDEST:
        raise NoFirefox(f"Debian {SUITE} gave Firefox {version}, {OLDEST} or newer is needed")
    (new / STAMP).write_text(str(version))
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def packaged_version(root: Path) -> int:
    """Return the version of the package in a folder; 0 without one."""
    asked = ["chroot", str(root), "dpkg-query", "-W", "-f", "${Version}", "firefox"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    found = re.match(r"(?:\d+:)?(\d+)\.", done.stdout)
    return int(found[1]) if found else 0


def apt_settings() -> str:
    """Return this machine's apt settings for proxies and date checks, as lines of apt.conf."""
    done = subprocess.run(
        ["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False
    )
    return done.stdout


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status."""
    if arguments != ["install"]:
        print(__doc__)
        return 2
    try:
        firefox = install()
    except NoFirefox as reason:
        print(f"no Firefox: {reason}", file=sys.stderr)
        return 1
    print(f"Firefox {firefox.version} in {firefox.root or firefox.binary}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
