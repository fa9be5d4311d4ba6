"""The storage helpers in CPython: they give the same fields as in a browser, about the disk that holds the cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import py_engine
from py_engine.errors import InputError
from tests.conftest import Runner


def test_of_the_cache_folders_disk(
    run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "not" / "made" / "yet"))
    status = run(py_engine.get_storage_status())
    assert set(status) == {"quotaMB", "usageMB", "availableMB", "persisted", "installed", "ios"}
    assert status["availableMB"] == pytest.approx(shutil.disk_usage(tmp_path).free / 1e6, abs=500)
    assert status["persisted"] and status["installed"] and not status["ios"]
    for size, fits in ((1, True), (1e12, False)):
        found = run(py_engine.can_cache_model(size))
        assert set(found) == {"fits", "availableMB", "recommendInstall"}
        assert (found["fits"], found["recommendInstall"]) == (fits, False)
    wrong: tuple[Any, ...] = (-1, float("nan"), float("inf"), "400", None, True, [1])
    for size in wrong:
        with pytest.raises(InputError, match="size_mb=.*: give a number from 0"):
            run(py_engine.can_cache_model(size))
    assert run(py_engine.request_persistent_storage()) is True
    assert py_engine.get_install_guidance() == {"installed": True, "manual": False, "steps": []}
    assert py_engine.is_standalone() and not py_engine.is_ios()
