"""Optimisers that torch lacks, for methods that change the optimiser instead of the network."""

from repro.optimizers.galore import ProjectedAdamW
from repro.optimizers.state_bytes import state_bytes

__all__ = ["ProjectedAdamW", "state_bytes"]
