"""Hints for names and arguments that users of other libraries write first."""

import ast
import difflib
from collections.abc import Iterable
from pathlib import Path

_STACK = "sj.stack(sj.{cell}(hidden_size), num_layers)"
_LAYER = "sj.recurrent(sj.{cell}(hidden_size)), or " + _STACK + " for several layers"
NAMES = {
    "LSTM": _LAYER.format(cell="lstm"),
    "GRU": _LAYER.format(cell="gru"),
    "RNN": _LAYER.format(cell="elman"),
    "SimpleRNN": _LAYER.format(cell="elman"),
    "RNNCell": "sj.elman(hidden_size)",
    "LSTMCell": "sj.lstm(hidden_size)",
    "GRUCell": "sj.gru(hidden_size)",
    "OptimizedLSTMCell": "sj.lstm(hidden_size)",
    "SimpleCell": "sj.elman(hidden_size)",
    "ConvLSTM": "sj.recurrent(sj.conv_lstm(hidden_size))",
    "Sequential": "sj.serial(layer, layer)",
    "Linear": "sj.pointwise(flax.linen.Dense(features))",
    "Embedding": "sj.pointwise(flax.linen.Embed(num_embeddings, features))",
    "Embed": "sj.pointwise(flax.linen.Embed(num_embeddings, features))",
    "LayerNorm": "sj.pointwise(flax.linen.LayerNorm())",
    "RMSNorm": "sj.pointwise(flax.linen.RMSNorm())",
    "Dropout": "sj.dropout(rate)",
    "Bidirectional": "sj.bidirectional(layer)",
    "Conv1d": "sj.causal_conv(kernel_size)",
    "Conv1D": "sj.causal_conv(kernel_size)",
    "MultiheadAttention": "sj.recurrent(sj.attention(hidden_size, num_heads=4, max_length=512))",
    "MultiHeadAttention": "sj.recurrent(sj.attention(hidden_size, num_heads=4, max_length=512))",
    "Transformer": "sj.stack(sj.transformer_block(width, num_heads=4, max_length=512), num_layers)",
    "Module": "Write a sj.Cell for a cell of your own, and a function that returns a layer for a model.",
    "nn": "Take feed-forward modules from flax.linen or flax.nnx; sj.pointwise(module) puts them into a model.",
    "optim": "Take optimizers from optax.",
    "rnn": "sj.recurrent(cell)",
    "scan": "sj.Scan(), a method for sj.recurrent(cell, method)",
}
"""What to write for the names of other libraries: an expression, or a sentence."""

ARGUMENTS = {
    "num_layers": "Write sj.stack(sj.{factory}(...), num_layers) for several layers.",
    "batch_first": "Sequences are time-major, [T, B, D]; sj.batch_major(layer) takes [B, T, D].",
    "time_major": "Sequences are time-major, [T, B, D]; sj.batch_major(layer) takes [B, T, D].",
    "bidirectional": "Write sj.stack(sj.{factory}(...), bidirectional=True), or sj.bidirectional(layer).",
    "dropout": "Write sj.stack(sj.{factory}(...), num_layers, dropout=rate), or sj.dropout(rate) between layers.",
    "recurrent_dropout": "Write sj.variational_dropout(layer, rate).",
    "input_size": "The input size comes from the x of init(key, x).",
    "in_features": "The input size comes from the x of init(key, x).",
    "input_dim": "The input size comes from the x of init(key, x).",
    "return_sequences": "unroll returns the outputs of all steps; sj.last(ys) takes the last.",
    "return_state": "unroll returns (carry, ys).",
    "reverse": "Write sj.reverse(layer).",
    "go_backwards": "Write sj.reverse(layer).",
    "stateful": "Pass the carry that unroll returns to the next unroll.",
    "device": "Arrays are made where jax.default_device says.",
    "dtype": "Cells compute in the dtype of x; param_dtype is that of the params.",
    "rngs": "init(key, x) draws the params.",
    "key": "init(key, x) draws the params.",
    "name": "Definitions have no names.",
}
"""What to write for arguments of other libraries; ``{factory}`` stands for the factory that was called."""

SIZES = (
    "hidden_dim",
    "hidden",
    "units",
    "features",
    "hidden_features",
    "num_units",
    "hidden_units",
    "num_features",
)
"""What other libraries call ``hidden_size``."""


_RUN = "Write {layer}.unroll(params, carry, xs) for a sequence, or {layer}.step(params, carry, x) for one time step."
_MODE = "There is no training mode: with key= a call is noisy, without it is deterministic."
METHODS = {
    "apply": _RUN,
    "forward": _RUN,
    "unroll": _RUN,
    "step": _RUN,
    "train": _MODE,
    "eval": _MODE,
    "parameters": "init(key, x) returns the params.",
    "state_dict": "init(key, x) returns the params.",
    "initialize_carry": "Write initial_carry(params, x).",
}
"""What to write for methods of other libraries; ``{layer}`` stands for the layer, or for the cell bound to a method."""


def method_hint(kind: str, name: str) -> str:
    """Return a sentence that says what to write in place of an unknown method of a cell or a layer, or "".

    Example:
        >>> from seqjax.hints import method_hint
        >>> method_hint("Layer", "initialize_carry"), method_hint("Layer", "shape")
        (' Write initial_carry(params, x).', '')
    """
    layer = {"Cell": "sj.recurrent(cell)", "Layer": "layer"}.get(kind)
    return f" {METHODS[name].format(layer=layer)}" if layer and name in METHODS else ""


def name_hint(name: str, known: Iterable[str]) -> str:
    """Return a sentence that says what to write in place of an unknown name, or "".

    Example:
        >>> from seqjax.hints import name_hint
        >>> name_hint("Sequential", ["serial"]), name_hint("MinGRU", ["min_gru"]), name_hint("zzz", ["serial"])
        (' Write sj.serial(layer, layer).', " Did you mean 'min_gru'?", '')
    """
    if name in NAMES:
        return f" Write {NAMES[name]}." if NAMES[name].startswith("sj.") else f" {NAMES[name]}"
    known = list(known)
    home = None if name.startswith("_") else home_of(name, sorted(known, key="training".__ne__))
    if home is not None:
        return f" Write sj.{home}.{name}."
    plain = {each.lower().replace("_", ""): each for each in known}
    near = difflib.get_close_matches(name.lower().replace("_", ""), plain, 1, 0.75)
    return f" Did you mean {plain[near[0]]!r}?" if near else ""


def home_of(name: str, packages: Iterable[str]) -> str | None:
    """Return the package of seqjax that has a public name, from the sources alone; None where there is none.

    Example:
        >>> from seqjax.hints import home_of
        >>> home_of("make_train_step", ["datasets", "training"]), home_of("zzz", ["training"])
        ('training', None)
    """
    for package in packages:
        source = Path(__file__).with_name(package) / "__init__.py"
        if source.is_file() and name in _public(source):
            return package
    return None


def _public(source: Path) -> list[str]:
    """Return ``__all__`` of a module without importing it."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def argument_hint(factory: str, name: str, known: Iterable[str]) -> str:
    """Return a sentence that says what to write in place of an unknown argument of a factory, or "".

    Example:
        >>> from seqjax.hints import argument_hint
        >>> argument_hint("gru", "units", ["hidden_size"])
        " Did you mean 'hidden_size'?"
        >>> argument_hint("gru", "return_state", ["hidden_size"])
        ' unroll returns (carry, ys).'
    """
    known = list(known)
    if name in SIZES and "hidden_size" in known:
        return " Did you mean 'hidden_size'?"
    if name in ARGUMENTS:
        return " " + ARGUMENTS[name].format(factory=factory)
    near = difflib.get_close_matches(name, known, 1, 0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
