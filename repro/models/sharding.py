"""A frozen model over several devices: each holds a share of every block's weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from repro.config import ConfigError
from repro.models.wrapper import without_wrapper

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the frozen weights of a transformer's blocks over a mesh of devices, in place (FSDP2).

    A block is gathered for its forward and backward pass and sharded again afterwards. Trained parameters
    stay whole on every device, and so do all parameters outside of the blocks: the embeddings and the output
    layer have 2 of 70 billion weights.

    Args:
        model: with its adapters, on the CPU or on the mesh's device. Of a block's frozen weights only this
            process's rows are read and moved, one block at a time. So weights that are mapped from a file
            (see `repro.models.mapped`) are never in memory as a whole.

    Raises:
        ConfigError: there is no frozen weight to shard.
    """
    from torch.distributed.fsdp import fully_shard

    base = without_wrapper(model)
    body, blocks = base.base_model, _blocks(base.base_model)
    inside = {parameter for block in blocks for parameter in block.parameters()}
    trained = {parameter for parameter in inside if parameter.requires_grad}
    outside = {parameter for parameter in body.parameters() if parameter not in inside}
    if trained == inside:
        raise ConfigError("strategy fsdp shards frozen weights, but every weight is trained; use ddp")
    for block in blocks:
        whole = dict(_without_weights(block))
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
        shards = {name: _own_rows(weight, mesh) for name, weight in whole.items()}
        block.load_state_dict(shards, assign=True, strict=False)
    # The body has no weights to shard; as the root of the blocks it prefetches the next one.
    fully_shard(body, mesh=mesh, reshard_after_forward=True, ignored_params=trained | outside)
    # transformers' generation reads this flag: a process that has finished its texts then keeps running the
    # model, because the other processes need its shard.
    base._is_fsdp_managed_module = True


def _without_weights(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Puts frozen weights on the meta device, from which FSDP takes shapes alone, and yields them by name."""
    import torch
    from torch import nn

    for name, weight in list(block.named_parameters()):
        if not weight.requires_grad:
            module, _, own = name.rpartition(".")
            empty = torch.empty_like(weight, device="meta")
            setattr(block.get_submodule(module), own, nn.Parameter(empty, requires_grad=False))
            yield name, weight.detach()


def _own_rows(weight: Tensor, mesh: DeviceMesh) -> Tensor:
    """This process's shard of a whole weight, on the mesh's device, as FSDP cuts it: by `torch.chunk`."""
    from torch.distributed.tensor import DTensor, Shard

    each = -(-len(weight) // mesh.size())
    rows = weight[mesh.get_local_rank() * each :][:each]
    own = rows.to(mesh.device_type, copy=True)
    return DTensor.from_local(own, mesh, [Shard(0)], shape=weight.shape, stride=weight.stride())


def _blocks(body: nn.Module) -> list[nn.Module]:
    """The transformer's blocks: the longest list of modules in it."""
    from torch import nn

    lists = [list(module) for module in body.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)
