"""Writes a base model with an adapter's update in its weights, as an ordinary checkpoint (`repro merge`).

Tensors pass through memory shard by shard, so a model that no machine here can hold is merged too. `adapter`
reads and checks the adapter, `base` the checkpoint under it, and `merge` writes the result.
"""
