"""Advice to install the page before a large download, on phones and tablets: there a browser may throw away what a
page keeps, and on iOS an installed page has a store of its own, so it comes before the download or not at all."""

import asyncio

from app import storage
from app.hints import hint, withdraw

NAME = "install"
LARGE_MB = 100
DONE = "install-advice"  # kept once the user has decided

KEPT_ON_IOS = (
    "From the Home Screen it keeps its models; in a browser they may be removed after seven days without a visit. "
    "The app loads models for itself: install it first."
)
KEPT_ELSEWHERE = "As an app it keeps its models more safely, and opens without a network."

_then = None  # what goes on after the decision


def before_download(size_mb, go):
    """Call `go` now, or, where installing first is better and the user was not asked yet, after the decision.
    `size_mb`: None when it is not known."""
    asyncio.create_task(_before_download(size_mb, go))


async def _before_download(size_mb, go):
    global _then
    advised = False
    if storage.is_handheld() and not storage.read(DONE) and (size_mb or LARGE_MB) >= LARGE_MB:
        advised = (await storage.can_cache_model(size_mb or LARGE_MB))["recommendInstall"]
    if advised:
        _then = go
        withdraw(NAME)  # it may be open from the settings, with other buttons
        _show(
            ("Load anyway", "install-later", "plain"),
            ("Cancel", "install-cancel", "plain"),
        )
    else:
        go()


def advise():
    """Show how this page is installed."""
    _show(("Close", "install-cancel", "plain"))


def _show(*actions):
    guidance = storage.get_install_guidance()
    steps = guidance["steps"]
    text = KEPT_ON_IOS if storage.is_ios() else KEPT_ELSEWHERE
    if guidance["installed"]:
        text = "It is installed already."
    elif not guidance["manual"]:
        actions = (("Install", "install-now", "primary"),) + actions
        steps = ()
    elif not steps:
        text = "This browser installs no pages."
    hint(NAME, "Install Jerboa", text, actions, steps, True)


def now(button=None):
    """Open the browser's own prompt; then go on, whatever the answer."""
    asyncio.create_task(_now())


async def _now():
    await storage.prompt_install()
    later()


def later(button=None):
    """Go on without; the advice does not come again by itself."""
    global _then
    withdraw(NAME)
    try:
        storage.write(DONE, True)
    except storage.StoreFull:
        pass  # then it comes again
    go, _then = _then, None
    if go:
        go()


def cancel(button=None):
    """Close it, and load nothing; whether it was open."""
    global _then
    _then = None
    return withdraw(NAME)
