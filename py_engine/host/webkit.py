"""Whether this runs in WebKit, and in which version. This decides how command buffers are cut (graph/submit.py) and how
long a calibration of that stays valid; nothing else depends on it. The GPU's vendor would be the wrong question: Dawn
runs on Apple's GPUs too, without WebKit's faults.
"""

from __future__ import annotations

import re

from py_engine.host import IN_BROWSER

_IOS = re.compile(r"\b(iPhone|iPad|iPod)\b")
_VERSION = re.compile(r"\bVersion/[\d.]+|\bOS \d+[\d_]*")
# Browsers that also say AppleWebKit but are not: Chromium under its names, and the old Edge.
_OTHERS = re.compile(r"\b(Chrome|Chromium|HeadlessChrome|Edg|Edge)/")


def is_webkit(agent: str, ios: bool) -> bool:
    """Whether a user agent is WebKit's. `ios`: this is known to be an iPhone or iPad, where every browser is WebKit.
    The user agent does not always say so: an iPad that asks for desktop pages says Macintosh, and only a page sees its
    touch screen."""
    if ios or _IOS.search(agent):
        return True
    return "AppleWebKit/" in agent and not _OTHERS.search(agent)


def version_of(agent: str) -> str:
    """The parts of a user agent that change when WebKit is updated: the versions of Safari and of iOS. Other browsers
    on iOS hide the former, an iPad that asks for desktop pages hides the latter; some hide both, and this is ""."""
    return " ".join(_VERSION.findall(agent))


def webkit_version() -> str:
    """`version_of` this browser; "" in CPython."""
    if not IN_BROWSER:
        return ""
    import js

    return version_of(str(js.navigator.userAgent))


def on_webkit() -> bool:
    """Whether this runs in WebKit. False in CPython, whatever the GPU."""
    if not IN_BROWSER:
        return False
    import js

    from py_engine.host.device_storage import is_ios

    return is_webkit(str(js.navigator.userAgent), is_ios())
