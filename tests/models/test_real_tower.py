"""A real vision transformer: DINOv2 ViT-S/14 from a package, its rows against onnxruntime's on the same file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from devtools.package_models import PICTURES, PackageModelError, prepare_onnx
from py_engine.serve.engine import Engine
from py_engine.tasks.features import FeaturesRequest
from tests import reference
from tests.conftest import Runner, missing_adapter, software_adapter
from tests.reference import nmse

pytestmark = pytest.mark.real_model


def test_rows_are_those_of_onnxruntime(run: Runner) -> None:
    """257 rows of a picture, of which every eighth is compared; in f16 too they are near."""
    try:
        folder = str(prepare_onnx(PICTURES[0]))
    except PackageModelError as error:
        missing_adapter(f"the packaged model is not to be had: {error}")
    golden = np.load(reference.GOLDENS / "real_tower.npz")
    request = FeaturesRequest(
        golden["patches"].astype(np.float32) / 64, grid=golden["grid"].tolist()
    )

    async def rows(dtype: str) -> Any:
        async with await Engine.load(folder, dtype=dtype, host="wgpu") as engine:
            found = await engine.ask(request)
            return np.asarray(found.features).reshape(found.rows, found.dimensions)

    with software_adapter("wgpu"):
        exact, narrow = run(rows("f32")), run(rows("f16"))
    assert exact.shape == (257, 384)
    assert nmse(exact[::8].ravel(), golden["rows"].ravel()) <= reference.NMSE_F32
    assert nmse(narrow[::8].ravel(), golden["rows"].ravel()) <= reference.NMSE_F16
