"""A saved session in the browser: its bytes go from the GPU to the store and back as JavaScript arrays."""

from __future__ import annotations

from devtools.page_server import PageServer
from tests_e2e.conftest import Probe, Visited, blank_page
from tests_e2e.visit import ORGANISATION


def test_a_session_survives_a_reload(visited: Visited, site: PageServer) -> None:
    """The session is saved and restored after a reload: it gives the same logits and the same answer as the run that
    continued."""
    page = blank_page(visited.context, site)
    arguments = (site.url + "models", f"{ORGANISATION}/lfm2-mlx4-g64", "of the test")
    unbroken = Probe(page, "py314")("session", *arguments)
    assert unbroken.pop("saved") == []
    page.reload()
    restored = Probe(page, "py314")("session", *arguments)
    assert restored.pop("saved") == ["of the test"]
    assert restored == unbroken
    assert (restored["ran"], restored["class"]) == (3, 256)
    page.close()
