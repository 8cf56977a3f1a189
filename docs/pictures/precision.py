"""What does bfloat16 cost? The error of gradients by source, and the memories that a dtype can hold."""

import jax.numpy as jnp
import numpy as np

import seqjax as sj
from pictures.base import Curve, Picture
from seqjax.calibration.influence import leaky
from seqjax.calibration.precision import DIGITS

ROUNDED = 0.8984375  # 0.9 in bfloat16


def precision_error() -> list[Curve]:
    """Measure the gradient of lambda^T by lambda = 0.9 in bfloat16, through a leaky sum that starts at one."""
    lengths = [2, 8, 32, 128]
    bound = sj.probes.bind(sj.recurrent(leaky(0.9)), jnp.full(1, 0.9))
    batch, carry = jnp.zeros((lengths[-1], 1, 1)), jnp.ones((1, 1))
    rows = sj.probes.precision_error(
        bound, lambda ys, _: ys[-1, :, 0], batch, carry=carry, dtypes=["bfloat16"], lengths=lengths
    )

    def column(name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows])

    return [
        Curve(
            "from rounding params",
            lengths,
            column("parameters"),
            lambda length: 1 - (ROUNDED / 0.9) ** (length - 1),
            "1 − (0.8984 / 0.9)^(T−1)",
        ),
        Curve("state", lengths, column("state")),
        Curve("accumulation", lengths, column("accumulation")),
        Curve("whole error", lengths, column("error")),
    ]


def longest_time_constant() -> list[Curve]:
    """Measure the longest time constant of a decay below one in five dtypes."""
    digits = DIGITS | {"float64": 53}
    measured = [sj.probes.longest_time_constant(name) for name in digits]
    label = "bfloat16; float16 and tf32; float32; float64"
    return [
        Curve(
            label, list(digits.values()), measured, lambda p: -1 / np.log1p(-(2.0**-p)), "−1 / ln(1 − 2^−p)"
        )
    ]


def unrepresentable_share() -> list[Curve]:
    """Measure the share of decays with uniform time constants that bfloat16 and float16 round to one."""
    longest = np.array([64, 128, 256, 384, 512, 1024, 2048, 4096, 8192, 16384])

    def share(dtype: str, limit: int) -> Curve:
        decays = [1 - 1 / np.linspace(1, n, 4001) for n in longest]
        measured = [sj.probes.unrepresentable_share(decay, dtype) for decay in decays]
        return Curve(
            dtype, longest, measured, lambda n: np.maximum(0, (n - limit) / (n - 1)), "share above 2^p"
        )

    return [share("bfloat16", 2**8), share("float16", 2**11)]


PICTURES = (
    Picture("precision_error", ("precision_error",), "T (steps)", "relative error", precision_error, "xy"),
    Picture(
        "longest_time_constant",
        ("longest_time_constant",),
        "p (binary digits of precision)",
        "time constant (steps)",
        longest_time_constant,
        "y",
    ),
    Picture(
        "unrepresentable_share",
        ("unrepresentable_share",),
        "longest time constant of the units (steps)",
        "share of the decays",
        unrepresentable_share,
        "x",
    ),
)
