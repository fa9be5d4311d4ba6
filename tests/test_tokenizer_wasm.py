"""The browser's wasm tokenizers, run in Node, give the same ids as the wheel for the very bytes that the engine
passes them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from py_engine.host import load_tokenizer_library
from py_engine.host.tokenizers import TokenizerLibrary
from py_engine.inputs.tokenizer import Tokenizer
from tests import reference
from tests.corpus import texts
from tests.packaged_tokenizers import NAMES, tokenizer_json

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / ".vendor" / "tokenizers" / "index.js"


WORDPIECE = "bert-f32"  # a tiny one like BERT's


@pytest.mark.parametrize(
    "name", [*NAMES, WORDPIECE, pytest.param("unigram", marks=pytest.mark.real_model)]
)
def test_ids_are_equal_in_both_hosts(name: str, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not LIBRARY.exists():
        missing = "node" if node is None else f"{LIBRARY} (./dev vendors it)"
        if os.environ.get("CI") == "true" and node is not None:
            pytest.fail(f"{missing} is missing")
        pytest.skip(f"{missing} is missing; the browser tests compare the ids too")
    given: list[bytes] = []

    async def keep(data: bytes) -> TokenizerLibrary:
        given.append(data)
        return await load_tokenizer_library(data)

    tiny = reference.folder(name) / "tokenizer.json"
    path = tiny if name == WORDPIECE else tokenizer_json(name)
    tokenizer = asyncio.run(Tokenizer.load(path.read_bytes(), load_library=keep))
    sample = texts()
    (tmp_path / "tokenizer.json").write_bytes(given[-1])
    (tmp_path / "texts.json").write_text(json.dumps(sample))
    # This is a UMD file, but its package calls itself an ES module. Node runs it under another file name.
    shutil.copy(LIBRARY, tmp_path / "library.cjs")
    files = [tmp_path / name for name in ("library.cjs", "tokenizer.json", "texts.json")]
    command = [node, str(ROOT / "tests" / "wasm_ids.cjs"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:].decode()
    found = json.loads(done.stdout)
    different = [
        (text, ids)
        for text, ids in zip(sample, found, strict=True)
        if ids != tokenizer.encode(text)
    ]
    assert not different, f"{len(different)} of {len(sample)}: {different[:3]}"
