"""Decoding of token sequences from any causal layer that maps tokens ``[*B]`` to logits ``[*B, V]``."""

from seqjax.decode.beam import Beams, beam_search, wu_length_penalty
from seqjax.decode.best_path import best_path
from seqjax.decode.generate import Generated, generate
from seqjax.decode.samplers import Sampler, categorical, greedy, keep_top_k, keep_top_p
from seqjax.decode.stream import StreamedToken, stream

__all__ = [
    "Beams",
    "Generated",
    "Sampler",
    "StreamedToken",
    "beam_search",
    "best_path",
    "categorical",
    "generate",
    "greedy",
    "keep_top_k",
    "keep_top_p",
    "stream",
    "wu_length_penalty",
]
