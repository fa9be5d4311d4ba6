"""The browser's tokenizers (the wasm build, called from Pyodide) give the ids and texts of CPython's wheel."""

from __future__ import annotations

import pytest

from devtools.page_server import PageServer
from tests.corpus import texts
from tests.packaged_tokenizers import NAMES
from tests_e2e.conftest import Probe
from tests_e2e.native import native


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_decoded_texts_are_native_ones(probe: Probe, site: PageServer, name: str) -> None:
    """3,000 texts in many scripts, in each Pyodide, because the two pass texts between Python and JavaScript
    differently."""
    address, sample = f"{site.url}tokenizers/{name}.json", texts()
    mine, reference = probe("tokenize", address, sample), native("tokenize", address, sample)
    for what in ("ids", "decoded"):
        triples = zip(sample, mine[what], reference[what], strict=True)
        different = [triple for triple in triples if triple[1] != triple[2]]
        assert not different, f"{len(different)} {what} of {len(sample)}: {different[:3]}"
