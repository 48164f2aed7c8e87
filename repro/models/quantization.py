"""Base weights in four bits, by bitsandbytes: 70 billion of them fit on one GPU with 80 GB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repro.config import ConfigError
from repro.models.shapes import linear_shapes
from repro.models.spec import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def quantize(model: PreTrainedModel, spec: ModelSpec) -> None:
    """Quantise the linear maps of all blocks to NF4, in place, and nothing outside of the blocks.

    As in QLoRA (Dettmers et al., NeurIPS 2023), with double quantisation: 4.13 bits a weight. A map unpacks
    its weight to the original dtype in each pass.

    Raises:
        ConfigError: bitsandbytes is not installed, or a linear map is not an nn.Linear.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            f"model {spec.name}: quantization {spec.quantization} needs the package bitsandbytes; install "
            "it by pip install -e '.[quantized]'"
        ) from error
    from torch import nn

    for shape in linear_shapes(spec.architecture):
        linear = model.get_submodule(shape.name)
        if type(linear) is not nn.Linear:
            raise ConfigError(
                f"model {spec.name}: quantization {spec.quantization} takes nn.Linear only, and {shape.name} "
                f"is a {type(linear).__name__}; remove `quantization`"
            )
        layer: Any = bitsandbytes.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=linear.weight.dtype,
            compress_statistics=True,
            quant_type=spec.quantization,
            device="meta",
        )
        layer.weight = bitsandbytes.nn.Params4bit(
            linear.weight.data, requires_grad=False, compress_statistics=True, quant_type=spec.quantization
        )
        layer.bias = linear.bias
        # On some processors bitsandbytes would repack the weight in its first evaluation, into a form that
        # computes in bf16 and has no gradient, so that later training would fail.
        layer.support_avx512bf16_for_cpu = False
        layer.to(linear.weight.device)  # packs it
        model.set_submodule(shape.name, layer)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft's tuners read it
