"""Models that the server is still fetching: their cards say so, and users can choose them once they are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from devtools.page_server import PageServer
from tests_e2e.visit import Visit, offer

SMALL = {"label": "Small", "note": "The first.", "total": 98_000_000}
LARGE = {"label": "Large", "note": "The second.", "total": 491_000_000}


@pytest.fixture
def visit(browser: Browser, site: PageServer) -> Iterator[Visit]:
    """The page without its engine, from a server that has no model yet."""
    site.site.offered, site.site.fetching, site.site.looking = [], [], True
    visit = Visit(browser, site)
    yield visit
    visit.close()
    site.site.fetching, site.site.looking = [], False
    offer(site)


def coming(model: dict[str, Any], phase: str, done: int = 0, **more: str) -> dict[str, Any]:
    """What devtools/offers.py says of a model that it fetches."""
    return {**model, "phase": phase, "done": done, **more}


def test_a_card_says_how_far_its_model_is_and_can_then_be_chosen(visit: Visit) -> None:
    site = visit.site.site
    page = visit.open()
    expect(page.locator("#hero .picker .empty")).to_contain_text("looks for models")
    site.fetching = [coming(SMALL, "fetch", 42_000_000), coming(LARGE, "waiting")]
    site.looking = False
    cards = page.locator(".choice")
    expect(cards).to_have_count(2)
    expect(cards.nth(0)).to_contain_text("42 MB of 98 MB")
    expect(cards.nth(1)).to_contain_text("fetched next")
    expect(cards.nth(0).locator("input")).to_be_disabled()
    expect(page.locator("#hero .picker .empty")).to_be_hidden()
    site.fetching = [coming(SMALL, "fetch", 90_000_000), coming(LARGE, "waiting")]
    expect(cards.nth(0)).to_contain_text("90 MB of 98 MB")
    site.fetching = [coming(SMALL, "convert", 98_000_000), coming(LARGE, "waiting")]
    expect(cards.nth(0)).to_contain_text("being prepared")
    ready = {
        "id": "local/small",
        "label": "Small",
        "kind": "chat",
        "note": "The first.",
        "size": 87_000_000,
    }
    site.offered = [{**ready, "endpoint": "local", "default": True}]
    site.fetching = [coming(LARGE, "fetch", 1_000_000)]
    box = page.locator("input[value='local/small']")
    expect(box).to_be_checked()
    expect(box).to_be_enabled()
    expect(cards).to_have_count(2)
    site.fetching = [coming(LARGE, "failed", message="no index is reachable")]
    expect(cards.nth(1)).to_contain_text("no index is reachable")
    expect(cards.nth(1).locator("input")).to_be_disabled()
    expect(box).to_be_checked()


def test_what_a_person_chose_stays_chosen(visit: Visit) -> None:
    site = visit.site.site
    offer(visit.site)
    site.looking = False
    site.fetching = [coming(LARGE, "fetch", 1)]
    page = visit.open()
    boxes = page.locator("input[name=model]:enabled")
    expect(boxes).to_have_count(2)
    boxes.nth(1).check()
    chosen = boxes.nth(1).get_attribute("value")
    more = {"id": "local/large", "label": "Large", "kind": "chat", "note": "", "size": 1_000_000}
    site.offered = [{**more, "endpoint": "local", "default": True}, *site.offered]
    site.fetching = []
    expect(boxes).to_have_count(3)
    expect(page.locator(f"input[value='{chosen}']")).to_be_checked()
    asked = len([path for path in visit.asked if path == "config.json"])
    page.wait_for_timeout(4000)
    again = len([path for path in visit.asked if path == "config.json"])
    assert again == asked, "nothing is under way any more, so nothing is asked for"
