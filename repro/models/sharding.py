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

    A block is put together when it is passed, forward and backward, and taken apart behind it. What is
    trained stays whole on every device, and so does what surrounds the blocks: of 70 billion weights the
    embeddings and the output are two.

    Args:
        model: with its adapters, on the CPU or wherever the mesh is. Blocks move to the mesh's device one at
            a time, so that no device ever holds the whole model.

    Raises:
        ConfigError: there is no frozen weight to shard.
    """
    from torch.distributed.fsdp import fully_shard

    base = without_wrapper(model)
    body, blocks = base.base_model, _blocks(base.base_model)
    inside = {parameter for block in blocks for parameter in block.parameters()}
    trained = {parameter for parameter in inside if parameter.requires_grad}
    if trained == inside:
        raise ConfigError("strategy fsdp shards frozen weights, and every weight is trained; use ddp")
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    outside = {parameter for parameter in body.parameters() if parameter not in inside}
    # The body has no weights of its own to shard; as the blocks' root it fetches the next one in time.
    fully_shard(body, mesh=mesh, reshard_after_forward=True, ignored_params=trained | outside)
    # transformers' generation asks for this name: with it, a process that has finished its texts goes on
    # passing the model for the others, which need its share of the weights.
    base._is_fsdp_managed_module = True


def _blocks(body: nn.Module) -> list[nn.Module]:
    """The list of blocks that every transformer is made of: the longest list of modules in it."""
    from torch import nn

    lists = [list(module) for module in body.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)
