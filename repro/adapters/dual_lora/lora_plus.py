"""LoRA+ (arXiv 2402.12354) for Dual LoRA: B and D have the higher learning rate.

peft's `create_loraplus_optimizer` finds its fast group by the text `lora_B` in a parameter's name. It would
take B and leave D, the same side of the direction group, at the rate of A. peft has no setting for this.
"""

from __future__ import annotations

import functools
from typing import Any

from peft import optimizers
from peft.optimizers import loraplus
from torch.optim import Optimizer

from .embedding import Embedding

_of_peft = loraplus.create_loraplus_optimizer


@functools.wraps(_of_peft)
def create_loraplus_optimizer(model: Any, *args: Any, **kwargs: Any) -> Optimizer:
    for name, layer in model.named_modules():
        if isinstance(layer, Embedding) and layer.dual_lora_A:
            raise ValueError(
                f"create_loraplus_optimizer: {name} is an embedding with Dual LoRA, for which LoRA+ has no "
                "rule; leave it out of target_modules, or take another optimizer"
            )
    optimizer = _of_peft(model, *args, **kwargs)
    ids = {id(p) for name, p in model.named_parameters() if "dual_lora_D" in name}
    slow, _, fast, _ = optimizer.param_groups
    fast["params"] += [p for p in slow["params"] if id(p) in ids]
    slow["params"] = [p for p in slow["params"] if id(p) not in ids]
    return optimizer


def install() -> None:
    """Replace peft's function; for models without Dual LoRA it does what it did."""
    optimizers.create_loraplus_optimizer = loraplus.create_loraplus_optimizer = create_loraplus_optimizer
