"""Advice to install the page before a large download, on phones and tablets. A browser there may delete the data of a
page that is not installed. On iOS an installed page has its own store, so installing after the download would lose
it."""

import asyncio

from app import storage
from app.hints import hint, withdraw

NAME = "install"
LARGE_MB = 100
DONE = "install-advice"  # stored once the user has decided

KEPT_ON_IOS = (
    "From the Home Screen it keeps its models; in a browser they may be removed after seven days without a visit. "
    "The installed app has its own store: install it before you load a model."
)
KEPT_ELSEWHERE = "As an app it keeps its models more safely, and opens without a network."

_then = None  # called after the decision


def before_download(size_mb, go):
    """Call `go` now; or, if installing first is better and the user was not asked yet, after the user's decision.
    `size_mb`: None when unknown."""
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
    """Show how to install this page."""
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
        text = "This browser cannot install pages."
    hint(NAME, "Install Jerboa", text, actions, steps, True)


def now(button=None):
    """Open the browser's install prompt; then go on, whatever the answer."""
    asyncio.create_task(_now())


async def _now():
    await storage.prompt_install()
    later()


def later(button=None):
    """Go on without installing. The advice is not shown again by itself."""
    global _then
    withdraw(NAME)
    try:
        storage.write(DONE, True)
    except storage.StoreFull:
        pass  # then the advice is shown again
    go, _then = _then, None
    if go:
        go()


def cancel(button=None):
    """Close the advice and load nothing; returns whether it was open."""
    global _then
    _then = None
    return withdraw(NAME)
