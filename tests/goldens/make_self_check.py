"""Writes py_engine/generate/golden_numbers.py: what the self-check at load compares kernels with, by NumPy in float64.

    python tests/goldens/make_self_check.py

The inputs are py_engine/generate/golden.py's; the formulas are written out here once more, apart from the shaders and
from the engine. tests/test_self_check.py holds the file to what this gives.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from py_engine.generate import golden  # noqa: E402  (the path first)

TARGET = ROOT / "py_engine/generate/golden_numbers.py"


def rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + golden.EPS)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def arrays(inputs: dict) -> dict[str, np.ndarray]:
    return {name: np.array(values, np.float64) for name, values in inputs.items()}


def matrix(m: golden.GoldenMatrix) -> np.ndarray:
    q = np.array(m.fields, np.float64).reshape(m.rows, -1, m.cols // (len(m.scales) // m.rows))
    scales, biases = (np.array(v).reshape(m.rows, -1, 1) for v in (m.scales, m.biases))
    return (scales * q + biases).reshape(m.rows, m.cols)


def norm() -> np.ndarray:
    given = arrays(golden.norm_inputs())
    return rms(given["x"]) * given["weight"]


def matvec() -> np.ndarray:
    given = arrays(golden.matvec_inputs())
    return matrix(golden.matvec_matrix()) @ (rms(given["x"]) * given["norm"])


def matmul() -> np.ndarray:
    x = arrays(golden.matmul_inputs())["x"].reshape(golden.MATMUL_TOKENS, golden.MATMUL_COLS)
    return (x @ matrix(golden.matmul_matrix()).T).ravel()


def rotate(head: np.ndarray) -> np.ndarray:
    """Halves rotated, as Su et al. 2021 in the order of transformers."""
    half = golden.HEAD_DIM // 2
    angle = golden.POSITION * golden.THETA ** (-np.arange(half) / half)
    a, b = head[:half], head[half:]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)]
    )


def attention() -> np.ndarray:
    given = arrays(golden.attention_inputs())
    d, h, n = golden.HEAD_DIM, golden.HEADS, golden.KV_HEADS
    qkv = given["qkv"].reshape(h + 2 * n, d)
    k, v = (given[x].reshape(n, golden.CONTEXT, d)[:, : golden.POSITION + 1].copy() for x in "kv")
    for i in range(n):
        k[i, golden.POSITION] = rotate(rms(qkv[h + i]) * given["k_norm"])
        v[i, golden.POSITION] = qkv[h + n + i]
    out = []
    for i in range(h):
        q = rotate(rms(qkv[i]) * given["q_norm"]) / np.sqrt(d)
        scores = k[i // (h // n)] @ q
        p = np.exp(scores - scores.max())
        out.append(p @ v[i // (h // n)] / p.sum())
    return np.concatenate(out)


def delta() -> np.ndarray:
    """One step of the recurrence of Yang et al. 2024, arXiv:2412.06464."""
    s, given = golden.DELTA, arrays(golden.delta_inputs())
    raw, z, b, a = np.split(given["proj"], np.cumsum([s.channels, s.values, s.value_heads]))
    conv = given["conv"].reshape(s.channels, s.taps)
    past = given["history"].reshape(s.taps, s.channels)
    at = golden.DELTA_POSITION
    window = [past[(at - j) % s.taps] for j in range(s.taps - 1, 0, -1)] + [raw]
    c = silu(sum(conv[:, j] * row for j, row in enumerate(window)))
    keys = s.key_heads * s.key_dim
    q, k = (c[i * keys : (i + 1) * keys].reshape(s.key_heads, s.key_dim) for i in (0, 1))
    v = c[2 * keys :].reshape(s.value_heads, s.value_dim)
    q, k = (x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6) for x in (q, k))
    q = q / np.sqrt(s.key_dim)
    a_log, dt_bias = given["decay"].reshape(2, s.value_heads)
    alpha = np.exp(-np.exp(a_log) * np.logaddexp(0, a + dt_bias))
    beta = 1 / (1 + np.exp(-b))
    columns = given["state"].reshape(s.value_heads, s.value_dim, s.key_dim)
    out = []
    for h in range(s.value_heads):
        n = h // (s.value_heads // s.key_heads)
        state = alpha[h] * columns[h].T
        state = state + np.outer(k[n], beta[h] * (v[h] - state.T @ k[n]))
        gate = silu(z.reshape(s.value_heads, -1)[h])
        out.append(rms(state.T @ q[n]) * given["norm"] * gate)
    return np.concatenate(out)


# How many of a result's numbers are kept: every n-th.
EVERY = {"norm": 7, "matvec": 1, "matmul": 41, "attention": 1, "delta": 1}


def text() -> str:
    """The file."""
    lines = [
        '"""Written by tests/goldens/make_self_check.py: do not edit. Every n-th number of each result, as text."""',
        "",
        "from __future__ import annotations",
        "",
        "NUMBERS = {",
    ]
    for make in (norm, matvec, matmul, attention, delta):
        every = EVERY[make.__name__]
        numbers = " ".join(f"{v:.7g}" for v in make()[::every])
        lines += [f'    "{make.__name__}": (', f"        {every},", '        """']
        lines += textwrap.wrap(numbers, 92)
        lines += ['        """,', "    ),"]
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
