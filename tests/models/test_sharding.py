"""Sharding a model reads this process's rows alone, out of files that are mapped where that is possible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from repro.methods import METHODS
from repro.models import load_model_spec
from repro.models.loading import load_model
from repro.models.mapped import maps_weights
from repro.models.sharding import shard
from tests.hub_cache import write_checkpoint

TINY = load_model_spec("tiny-llama")
TARGETS = TINY.targets_for("commonsense")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HF_HOME, as this process sees it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def file_of(tensor: torch.Tensor) -> str:
    """The file from which a tensor's memory is mapped; empty where it is ordinary memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, *_, name = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        if start <= tensor.data_ptr() < end:
            return Path(name).name if "/" in name else ""
    raise AssertionError("no mapping")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_mapped_where_it_says_so(dtype: torch.dtype, cache: Path) -> None:
    spec = write_checkpoint(cache, TINY, dtype)
    assert maps_weights(spec, dtype)
    blocks = load_model(spec, "causal_lm", dtype).model.layers
    files = {file_of(weight) for weight in blocks.parameters()}
    assert len(files) > 1 and all(file.endswith(".safetensors") for file in files)


def test_weights_that_are_made_in_memory_are_no_mapped_ones(cache: Path) -> None:
    spec = write_checkpoint(cache, TINY)
    assert not maps_weights(spec, torch.bfloat16)  # they are converted
    assert not file_of(load_model(spec, "causal_lm", torch.bfloat16).model.layers[0].mlp.up_proj.weight)
    assert not maps_weights(TINY, torch.float32)
    assert not maps_weights(load_model_spec("llama3-70b"), torch.bfloat16)  # is not in this cache
    one, *_ = sorted(cache.rglob("*.safetensors"))
    content = one.read_bytes()
    one.write_bytes(content[:100])
    assert not maps_weights(spec, torch.float32)
    one.unlink()
    assert not maps_weights(spec, torch.float32)


class Reads(TorchDispatchMode):
    """Counts the bytes that operations read of the given weights; a view reads none."""

    def __init__(self, weights: list[nn.Parameter]) -> None:
        super().__init__()
        self.bytes = 0
        self._storages = {weight.untyped_storage().data_ptr() for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        of_weights = [
            tensor
            for tensor in args
            if type(tensor) is torch.Tensor and tensor.untyped_storage().data_ptr() in self._storages
        ]
        if not func.is_view and "detach" not in str(func) and "empty_like" not in str(func):
            self.bytes += sum(tensor.nbytes for tensor in of_weights)
        return result


@pytest.fixture
def three_processes() -> Iterator[None]:
    """This process as the second of three that are not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=3)
    yield
    dist.destroy_process_group()


def test_a_process_reads_its_rows_of_the_blocks_alone(three_processes: None) -> None:
    torch.manual_seed(0)
    model = METHODS["lora"](rank=2).attach(load_model(TINY, "causal_lm"), TARGETS, "causal_lm")
    blocks = model.get_base_model().model.layers
    whole = {n: p.detach().clone() for n, p in blocks.named_parameters() if not p.requires_grad}
    reads = Reads([p for p in blocks.parameters() if not p.requires_grad])
    with reads:
        shard(model, init_device_mesh("cpu", (3,)))
    own = {name: p.to_local() for name, p in blocks.named_parameters() if isinstance(p, DTensor)}
    assert own.keys() == whole.keys()
    for name, weight in whole.items():
        assert torch.equal(own[name], weight.chunk(3)[1]), name
    assert reads.bytes == sum(rows.nbytes for rows in own.values())
    assert 0.3 < reads.bytes / sum(weight.nbytes for weight in whole.values()) < 0.36


def test_fsdp_is_given_shapes_alone(three_processes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would move a block as a whole to its device, and then keep a part."""
    given: list[torch.device] = []

    def watched(module: nn.Module, *, ignored_params: set[nn.Parameter], **settings: Any) -> None:
        given.extend(p.device for p in module.parameters() if p not in ignored_params)
        fully_shard(module, ignored_params=ignored_params, **settings)

    monkeypatch.setattr(fsdp, "fully_shard", watched)
    model = METHODS["dual_lora"]().attach(load_model(TINY, "causal_lm"), TARGETS, "causal_lm")
    blocks = model.get_base_model().model.layers
    frozen = sum(not p.requires_grad for p in blocks.parameters())
    shard(model, init_device_mesh("cpu", (3,)))
    assert given[:frozen] == frozen * [torch.device("meta")]
    assert {p.device.type for p in model.parameters()} == {"cpu"}
