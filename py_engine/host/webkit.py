"""Whether this runs in WebKit, and in which: all that a user agent answers here. It decides how command buffers are cut
(graph/submit.py), and for how long what was found out about that holds, nothing else. The GPU's vendor does not: Dawn
runs on Apple's GPUs too, without WebKit's troubles.
"""

from __future__ import annotations

import re

from py_engine.host import IN_BROWSER

_IOS = re.compile(r"\b(iPhone|iPad|iPod)\b")
_VERSION = re.compile(r"\bVersion/[\d.]+|\bOS \d+[\d_]*")
# Engines that call themselves AppleWebKit as well: Chromium under its names, Edge before it.
_OTHERS = re.compile(r"\b(Chrome|Chromium|HeadlessChrome|Edg|Edge)/")


def is_webkit(agent: str, ios: bool) -> bool:
    """Of a browser's user agent. `ios`: known to be an iPhone or iPad, where every browser is WebKit; an iPad that asks
    for desktop pages says Macintosh, and only a page sees its touch screen."""
    if ios or _IOS.search(agent):
        return True
    return "AppleWebKit/" in agent and not _OTHERS.search(agent)


def version_of(agent: str) -> str:
    """What an update of WebKit changes in a user agent: the versions of Safari and of iOS, each where it is told. Other
    browsers of iOS hide the former, an iPad that asks for desktop pages the latter, and some of these both."""
    return " ".join(_VERSION.findall(agent))


def webkit_version() -> str:
    """Of this process's browser; "" in CPython."""
    if not IN_BROWSER:
        return ""
    import js

    return version_of(str(js.navigator.userAgent))


def on_webkit() -> bool:
    """Whether this process is WebKit's. In CPython never, whatever the GPU."""
    if not IN_BROWSER:
        return False
    import js

    from py_engine.host.device_storage import is_ios

    return is_webkit(str(js.navigator.userAgent), is_ios())
