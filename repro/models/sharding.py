"""A frozen model over several devices: each holds a share of every block's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.config import ConfigError
from repro.models.wrapper import without_wrapper

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the frozen weights of a transformer's blocks over a mesh of devices, in place (FSDP2).

    A block is gathered for its forward and backward pass and sharded again afterwards. Trained parameters
    stay whole on every device, and so do all parameters outside of the blocks: the embeddings and the output
    layer have 2 of 70 billion weights.

    Args:
        model: with its adapters, on the CPU or on the mesh's device. Blocks move to that device one at a
            time, so that no device ever holds the whole model.

    Raises:
        ConfigError: there is no frozen weight to shard.
    """
    from torch.distributed.fsdp import fully_shard

    base = without_wrapper(model)
    body, blocks = base.base_model, _blocks(base.base_model)
    inside = {parameter for block in blocks for parameter in block.parameters()}
    trained = {parameter for parameter in inside if parameter.requires_grad}
    if trained == inside:
        raise ConfigError("strategy fsdp shards frozen weights, but every weight is trained; use ddp")
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    outside = {parameter for parameter in body.parameters() if parameter not in inside}
    # The body has no weights to shard; as the root of the blocks it prefetches the next one.
    fully_shard(body, mesh=mesh, reshard_after_forward=True, ignored_params=trained | outside)
    # transformers' generation reads this flag: a process that has finished its texts then keeps running the
    # model, because the other processes need its shard.
    base._is_fsdp_managed_module = True


def _blocks(body: nn.Module) -> list[nn.Module]:
    """The transformer's blocks: the longest list of modules in it."""
    from torch import nn

    lists = [list(module) for module in body.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)
