"""Reads how long a hub asks to wait: its RateLimit header (https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-09.html,
such as `"api";r=0;t=55`; the drafts before it wrote `limit=500, remaining=0, reset=55`), else Retry-After (RFC 9110,
10.2.3: seconds, or a date)."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping

MARGIN_S = 1.0  # added, since the header gives whole seconds


def wait_asked(headers: Mapping[str, str], now: float) -> float:
    """Seconds to wait, 0 if none. `headers`: of the answer, names in lower case; `now`: seconds since 1970."""
    return _rate_limit(headers) or _retry_after(headers, now)


def _rate_limit(headers: Mapping[str, str]) -> float:
    waits = [0.0]
    for policy in re.split(r",(?=\s*\")", headers.get("ratelimit", "")):
        left = re.search(r"(?:;\s*r|\bremaining)\s*=\s*(\d{1,9})(?!\d)", policy)
        until = re.search(r"(?:;\s*t|\breset)\s*=\s*(\d{1,9})(?!\d)", policy)
        if left and until and int(left[1]) == 0:
            waits.append(int(until[1]) + MARGIN_S)
    return max(waits)


def _retry_after(headers: Mapping[str, str], now: float) -> float:
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d*)?", value, re.ASCII):
        return float(value)
    until = _seconds(value)
    if until is None:
        return 0.0
    here = _seconds(headers.get("date", ""))  # the server's own clock, where it tells the time
    return max(0.0, until - (now if here is None else here))


def _seconds(date: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
