"""Instruments: how gradients behave, measured."""

from seqjax.probes.cost import Cost, WhileLoop, count_cost
from seqjax.probes.decay import Decay, fit_decay, horizon
from seqjax.probes.profile import GradientProfile, gradient_profile, total_log_norm

__all__ = [
    "Cost",
    "Decay",
    "GradientProfile",
    "WhileLoop",
    "count_cost",
    "fit_decay",
    "gradient_profile",
    "horizon",
    "total_log_norm",
]
