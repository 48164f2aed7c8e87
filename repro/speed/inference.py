"""A forward pass under the methods that stay in the model, for the paper's claim about their inference.

Adapters and prefixes cannot be merged into a weight. Measured is the pass over a whole text at once, as in
evaluation; a merged adapter's cost is in `repro.speed.layer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from repro.plans.experiment import load_experiment
from repro.plans.plan import expand
from repro.plans.profile import load_profile
from repro.quiet import quiet_libraries
from repro.runs.bases import BaseModels
from repro.runs.measurements import Measurement
from repro.speed.conditions import Conditions, Found
from repro.speed.timing import ratio, take_turns, timer

# Adapter-P of Table 1, Adapter-L and Prefix of Table 4, which have the same model.
_ROWS = {
    "Adapter-P": ("table1", "adapter_p"),
    "Adapter-L": ("table4", "adapter_l"),
    "Prefix": ("table4", "prefix"),
}
_PLAIN = "plain"
_TOKENS = 128
# On two shared cores the logarithm of a round's ratio had a standard deviation of 0.10 to 0.23, around
# overheads of 2 to 9 %. The ledger wanted 258 rounds to decide about those of 2 and 3 %.
_ROUNDS = 350


def figures(conditions: Conditions) -> Iterator[Found]:
    """Seconds of a pass relative to the plain model's."""
    profile = load_profile("smoke" if conditions.small else "laptop")
    bases = BaseModels()
    cases: dict[str, Callable[[], object]] = {}
    with quiet_libraries():
        for name, (experiment, row) in _ROWS.items():
            (planned,) = expand(load_experiment(experiment), profile).only([row]).rows
            spec = planned.specs[0]
            task = spec.benchmark.model_task
            if not cases:
                cases[_PLAIN] = _pass(bases.checkout(spec.model, task, "fp32")[0], conditions.device)
            base, _ = bases.checkout(spec.model, task, "fp32")
            adapted = spec.method.attach(base, spec.adapted_modules, task)
            cases[name] = _pass(adapted, conditions.device)
    rounds = 2 if conditions.small else _ROUNDS
    times = take_turns(cases, rounds=rounds, budget=conditions.budget, timed=timer(conditions.device))
    for name in _ROWS:
        yield Measurement(
            name=f"{name} / plain: a forward pass",
            at=f"{spec.model.name}, one text of {_TOKENS} tokens, fp32",
            ratio=ratio(times[name], times[_PLAIN]),
            note=f"{1e3 * times[name].median:.0f} ms against {1e3 * times[_PLAIN].median:.0f} ms",
        )


def _pass(model: torch.nn.Module, device: str) -> Callable[[], object]:
    model.to(device).eval()
    text = torch.arange(_TOKENS, device=device)[None] % 64  # within every vocabulary

    @torch.inference_mode()
    def run() -> object:
        return model(input_ids=text, attention_mask=torch.ones_like(text))

    return run
