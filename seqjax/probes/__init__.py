"""Instruments: how gradients behave, measured."""

from seqjax.probes.clipping import ClippingStatistics, clipping_statistics
from seqjax.probes.cost import Cost, WhileLoop, count_cost
from seqjax.probes.decay import Decay, fit_decay, horizon
from seqjax.probes.gates import GateStatistics, Openness, gate_statistics
from seqjax.probes.influence import (
    SpectralInfluence,
    TerminalInfluence,
    input_saliency,
    spectral_influence,
    terminal_influence,
)
from seqjax.probes.lags import LagDecomposition, TruncationBias, lag_decomposition, truncation_bias
from seqjax.probes.memory_curse import MemorySensitivity, curse_of_memory, memory_sensitivity
from seqjax.probes.noise import (
    NoiseScale,
    SignalToNoise,
    adjoint_signal_to_noise,
    gradient_noise_scale,
    per_example_gradients,
    signal_to_noise,
)
from seqjax.probes.profile import GradientProfile, adjoint_profile, gradient_profile, total_log_norm
from seqjax.probes.system import bind

__all__ = [
    "ClippingStatistics",
    "Cost",
    "Decay",
    "GateStatistics",
    "GradientProfile",
    "LagDecomposition",
    "MemorySensitivity",
    "NoiseScale",
    "Openness",
    "SignalToNoise",
    "SpectralInfluence",
    "TerminalInfluence",
    "TruncationBias",
    "WhileLoop",
    "adjoint_profile",
    "adjoint_signal_to_noise",
    "bind",
    "clipping_statistics",
    "count_cost",
    "curse_of_memory",
    "fit_decay",
    "gate_statistics",
    "gradient_noise_scale",
    "gradient_profile",
    "horizon",
    "input_saliency",
    "lag_decomposition",
    "memory_sensitivity",
    "per_example_gradients",
    "signal_to_noise",
    "spectral_influence",
    "terminal_influence",
    "total_log_norm",
    "truncation_bias",
]
