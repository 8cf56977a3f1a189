"""Instruments: how gradients behave, measured."""

from seqjax.probes.decay import Decay, fit_decay, horizon
from seqjax.probes.profile import GradientProfile, gradient_profile, total_log_norm
from seqjax.probes.system import Bound, bind

__all__ = [
    "Bound",
    "Decay",
    "GradientProfile",
    "bind",
    "fit_decay",
    "gradient_profile",
    "horizon",
    "total_log_norm",
]
