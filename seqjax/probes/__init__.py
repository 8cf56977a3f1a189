"""Probes: measurements of how gradients behave.

A probe of a layer or a step function takes ``(bound, loss, batch, *, carry=None)``, without the loss if it needs none:

* ``bound``: a layer with its params, ``bind(layer, params)``; or a plain function ``(carry, x) -> (carry, y)`` without
  batch axes, which needs ``carry=``;
* ``loss``: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`;
* ``batch``: a `seqjax.Batch` of ``xs``, ``targets``, ``reset`` and ``mask``, and ``context`` for a layer that is
  conditioned on one. Arrays stand for ``Batch(xs, None)``, and so does a number of steps for a function whose x is
  None;
* ``carry``: the carry entering the first step, by default the initial carry of the layer.

All other options are keyword-only.
"""

from seqjax.probes.bound import Bound, bind
from seqjax.probes.clipping import ClippingStatistics, clipping_statistics
from seqjax.probes.cost import Cost, WhileLoop, count_cost
from seqjax.probes.decay import Decay, fit_decay, horizon
from seqjax.probes.flossing import flossing_loss
from seqjax.probes.gates import GateStatistics, Openness, gate_statistics
from seqjax.probes.influence import (
    SpectralInfluence,
    TerminalInfluence,
    input_saliency,
    spectral_influence,
    terminal_influence,
)
from seqjax.probes.lags import LagDecomposition, TruncationBias, lag_decomposition, truncation_bias
from seqjax.probes.lyapunov import LyapunovSpectrum, lyapunov_spectrum
from seqjax.probes.memory_curse import MemorySensitivity, curse_of_memory, memory_sensitivity
from seqjax.probes.noise import (
    NoiseScale,
    SignalToNoise,
    adjoint_signal_to_noise,
    gradient_noise_scale,
    per_example_gradients,
    signal_to_noise,
)
from seqjax.probes.parallel import Parallelizability, parallelizability
from seqjax.probes.power_law import Crossover, PowerLaw, find_crossover, fit_power_law
from seqjax.probes.precision import PrecisionError, precision_error
from seqjax.probes.profile import GradientProfile, adjoint_profile, gradient_profile, total_log_norm
from seqjax.probes.scaling import Scaling, crossovers, flops_scaling, memory_scaling, time_scaling
from seqjax.probes.singular import SingularFan, singular_values
from seqjax.probes.time_constants import longest_time_constant, unrepresentable_share

__all__ = [
    "Bound", "ClippingStatistics", "Cost", "Crossover", "Decay", "GateStatistics", "GradientProfile",
    "LagDecomposition", "LyapunovSpectrum", "MemorySensitivity", "NoiseScale", "Openness",
    "Parallelizability", "PowerLaw", "PrecisionError", "Scaling", "SignalToNoise", "SingularFan",
    "SpectralInfluence", "TerminalInfluence", "TruncationBias", "WhileLoop", "adjoint_profile",
    "adjoint_signal_to_noise", "bind", "clipping_statistics", "count_cost", "crossovers",
    "curse_of_memory", "find_crossover", "fit_decay", "fit_power_law", "flops_scaling", "flossing_loss",
    "gate_statistics", "gradient_noise_scale", "gradient_profile", "horizon", "input_saliency",
    "lag_decomposition", "longest_time_constant", "lyapunov_spectrum", "memory_scaling",
    "memory_sensitivity", "parallelizability", "per_example_gradients", "precision_error",
    "signal_to_noise", "singular_values", "spectral_influence", "terminal_influence", "time_scaling",
    "total_log_norm", "truncation_bias", "unrepresentable_share",
]  # fmt: skip
