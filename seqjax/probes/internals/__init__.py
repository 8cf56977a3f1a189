"""The numerics of the probes. Users import from `seqjax.probes`."""
