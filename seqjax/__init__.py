"""seqjax: functional sequence modeling in JAX. Cells are pure functions scanned over time; gradients are measured.

Every public name and every subpackage is imported when it is first used, so that ``import seqjax`` takes no time.
"""

# ruff: noqa: I001 (the order is that of the layers of the package)
# fmt: off

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seqjax.version import __version__

if TYPE_CHECKING:  # for type checkers and editors
    from seqjax import (
        blocks, calibration, cells, combinators, datasets, decode, gradients, interop, layers, methods, models, ops,
        probes, tasks, testing, training,
    )
    from seqjax.base import (
        Activation, Attention, AttentionInputs, Batch, Cell, Dense, Diagonal, DiagonalInputs, Estimate,
        Estimator, Flags, Gated, GatedWeights, Layer, Matrix, MatrixInputs, Method, Step, StepFunction, UnrollFunction,
    )
    from seqjax.values import definition
    from seqjax.cells import (
        antisymmetric_rnn, attention, cfc, chrono_lstm, clockwork, conv_lstm, cornn, coupled_lstm,
        delta_net, echo_state, elman, gated_delta_net, gla, gru, hgrn, indrnn, irnn, layer_norm_lstm, lem,
        linear_attention, lru, lstm, ltc, mamba, mgu, min_gru, min_lstm, mlstm, orthogonal_rnn, para_gru,
        para_lstm, peephole_lstm, projection_lstm, qrnn, REGISTRY, retention, rg_lru, rtu, rwkv7, s4d, s5,
        slstm, sru, ssd, TimedInputs, ugrnn, ur_lstm,
    )
    from seqjax.methods import AssociativeScan, Auto, Chunked, Fused, Newton, NewtonReport, Scan, TimeSharded
    from seqjax.layers import (
        additive_attention, causal_conv, dropout, last, lengths_to_mask, mean_pool,
        multiplicative_attention, pointwise, recurrent, running_mean, running_normalization,
        scaled_dot_attention, token_shift,
    )
    from seqjax.combinators import (
        attention_weights, batch_major, bidirectional, Binomial, bptt_barrier, checkpointed, conditioned, dilated,
        encoder_decoder, frozen, learned_carry, Nested, normalized, parallel, repeat, reset_on, residual, reverse,
        serial, set_context, set_memory, Source, strided, summary, variational_dropout, with_memory, zoneout,
    )
    from seqjax.blocks import (
        feed_forward, gated_delta_block, griffin, griffin_block, hybrid_delta, mamba_block, mlstm_block,
        samba, slstm_block, stack, transformer_block, xlstm,
    )
    from seqjax.gradients import (
        eprop, full_bptt, kf_rtrl, randomized_truncated_bptt, reversible, rflo, rtrl, snap, truncated_bptt,
        uoro,
    )
    from seqjax.decode import beam_search, best_path, categorical, generate, greedy, Sampler, stream
else:  # hidden from type checkers, which would take any name for a public one

    def __getattr__(name: str) -> Any:
        """Import a public name or a subpackage when it is first used (PEP 562)."""
        if name in _HOME:
            value = getattr(import_module(_HOME[name]), name)
        elif name in __all__:
            value = import_module(f"seqjax.{name}")
        else:
            from seqjax.hints import name_hint

            raise AttributeError(f"module 'seqjax' has no attribute {name!r}.{name_hint(name, __all__)}")
        globals()[name] = value
        return value


__all__ = [
    "Activation", "AssociativeScan", "Attention", "AttentionInputs", "Auto", "Batch", "Binomial", "Cell",
    "Chunked", "Dense", "Diagonal", "DiagonalInputs", "Estimate", "Estimator", "Flags", "Fused", "Gated",
    "GatedWeights", "Layer", "Matrix", "MatrixInputs", "Method", "Nested", "Newton", "NewtonReport",
    "REGISTRY", "Sampler", "Scan", "Source", "Step", "StepFunction", "TimeSharded", "TimedInputs",
    "UnrollFunction", "__version__",
    "additive_attention", "antisymmetric_rnn", "attention", "attention_weights", "batch_major", "beam_search",
    "best_path", "bidirectional",
    "blocks", "bptt_barrier", "calibration", "categorical", "causal_conv", "cells", "cfc", "checkpointed",
    "chrono_lstm", "clockwork", "combinators", "conditioned", "conv_lstm", "cornn", "coupled_lstm",
    "datasets", "decode", "definition", "delta_net", "dilated", "dropout", "echo_state", "elman",
    "encoder_decoder", "eprop",
    "feed_forward", "frozen", "full_bptt", "gated_delta_block", "gated_delta_net", "generate", "gla",
    "gradients", "greedy", "griffin", "griffin_block", "gru", "hgrn", "hybrid_delta", "indrnn", "interop", "irnn",
    "kf_rtrl", "last", "layer_norm_lstm", "layers", "learned_carry", "lem", "lengths_to_mask",
    "linear_attention", "lru", "lstm", "ltc", "mamba", "mamba_block", "mean_pool", "methods", "mgu",
    "min_gru", "min_lstm", "mlstm", "mlstm_block", "models", "multiplicative_attention", "normalized", "ops",
    "orthogonal_rnn", "para_gru", "para_lstm", "parallel", "peephole_lstm", "pointwise", "probes",
    "projection_lstm", "qrnn", "randomized_truncated_bptt", "recurrent", "repeat", "reset_on", "residual",
    "retention", "reverse", "reversible", "rflo", "rg_lru", "rtrl", "rtu", "running_mean",
    "running_normalization", "rwkv7", "s4d", "s5", "samba", "scaled_dot_attention", "serial", "set_context",
    "set_memory", "slstm", "slstm_block", "snap", "sru", "ssd", "stack", "stream", "strided", "summary", "tasks",
    "testing",
    "token_shift", "training", "transformer_block", "truncated_bptt", "ugrnn", "uoro", "ur_lstm",
    "variational_dropout", "with_memory", "xlstm", "zoneout",
]

_HOMES = {  # for Python: where each public name is
    "seqjax.base": (
        "Activation", "Attention", "AttentionInputs", "Batch", "Cell", "Dense", "Diagonal",
        "DiagonalInputs", "Estimate", "Estimator", "Flags", "Gated", "GatedWeights", "Layer", "Matrix",
        "MatrixInputs", "Method", "Step", "StepFunction", "UnrollFunction",
    ),
    "seqjax.values": (
        "definition",
    ),
    "seqjax.cells": (
        "antisymmetric_rnn", "attention", "cfc", "chrono_lstm", "clockwork", "conv_lstm", "cornn",
        "coupled_lstm", "delta_net", "echo_state", "elman", "gated_delta_net", "gla", "gru", "hgrn",
        "indrnn", "irnn", "layer_norm_lstm", "lem", "linear_attention", "lru", "lstm", "ltc", "mamba",
        "mgu", "min_gru", "min_lstm", "mlstm", "orthogonal_rnn", "para_gru", "para_lstm", "peephole_lstm",
        "projection_lstm", "qrnn", "REGISTRY", "retention", "rg_lru", "rtu", "rwkv7", "s4d", "s5", "slstm",
        "sru", "ssd", "TimedInputs", "ugrnn", "ur_lstm",
    ),
    "seqjax.methods": (
        "AssociativeScan", "Auto", "Chunked", "Fused", "Newton", "NewtonReport", "Scan", "TimeSharded",
    ),
    "seqjax.layers": (
        "additive_attention", "causal_conv", "dropout", "last", "lengths_to_mask", "mean_pool",
        "multiplicative_attention", "pointwise", "recurrent", "running_mean", "running_normalization",
        "scaled_dot_attention", "token_shift",
    ),
    "seqjax.combinators": (
        "attention_weights", "batch_major", "bidirectional", "Binomial", "bptt_barrier", "checkpointed", "conditioned",
        "dilated", "encoder_decoder", "frozen", "learned_carry", "Nested", "normalized", "parallel", "repeat",
        "reset_on", "residual",
        "reverse", "serial", "set_context", "set_memory", "Source", "strided", "summary", "variational_dropout",
        "with_memory",
        "zoneout",
    ),
    "seqjax.blocks": (
        "feed_forward", "gated_delta_block", "griffin", "griffin_block", "hybrid_delta", "mamba_block",
        "mlstm_block", "samba", "slstm_block", "stack", "transformer_block", "xlstm",
    ),
    "seqjax.gradients": (
        "eprop", "full_bptt", "kf_rtrl", "randomized_truncated_bptt", "reversible", "rflo", "rtrl", "snap",
        "truncated_bptt", "uoro",
    ),
    "seqjax.decode": (
        "beam_search", "best_path", "categorical", "generate", "greedy", "Sampler", "stream",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
# fmt: on


def __dir__() -> list[str]:
    return sorted(__all__)
