"""Gradient estimators for recurrent layers, and the objective that they differentiate.

Backpropagation through time is at the top of the folder, online estimators are in `online`, local ones in `local`.
"""

from seqjax.gradients.bptt import full_bptt, truncated_bptt
from seqjax.gradients.local.eprop import eprop
from seqjax.gradients.local.rflo import rflo
from seqjax.gradients.objective import last_step, loss_sum, objective
from seqjax.gradients.online.kf_rtrl import kf_rtrl
from seqjax.gradients.online.rtrl import rtrl
from seqjax.gradients.online.snap import snap
from seqjax.gradients.online.uoro import uoro
from seqjax.gradients.randomized import randomized_truncated_bptt
from seqjax.gradients.reversible import reversible

__all__ = [
    "eprop", "full_bptt", "kf_rtrl", "last_step", "loss_sum", "objective", "randomized_truncated_bptt",
    "reversible", "rflo", "rtrl", "snap", "truncated_bptt", "uoro",
]  # fmt: skip
