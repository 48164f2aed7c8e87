"""Training texts that are too long: what is cut, and how many are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Literal

Truncation = Literal["context", "left", "prompt_right", "right"]
"""What a text with too many tokens loses.

`context`: what follows the prompt's head, so that the start token, the instruction, the end of the prompt and
the completion stay. `left`: the beginning of the prompt. `prompt_right`: the end of the prompt, as in HiRA's
code. `right`: the end of the whole text, its completion first, as in LLM-Adapters' code; a text that loses
its whole completion stays, without a target if the loss is on completions.
"""

ALL = "all"
"""The name of all texts together among those of their parts."""


def truncated(
    prompt: Sequence[int],
    completion: Sequence[int],
    head: Sequence[int],
    max_tokens: int,
    truncation: Truncation,
) -> tuple[Sequence[int], Sequence[int]]:
    """Prompt and completion of a text that is too long, cut to `max_tokens` tokens together.

    Args:
        head: tokens of the prompt's beginning by themselves. `context` keeps what the prompt has of them, up
            to half of the prompt's room, so that something of the rest stays.

    Raises:
        ValueError: the completion is to stay whole and leaves no token for its prompt.
    """
    if truncation == "right":
        return prompt[:max_tokens], completion[: max(0, max_tokens - len(prompt))]
    room = max_tokens - len(completion)
    if room < 1:
        raise ValueError(
            f"a completion of {len(completion)} tokens leaves no room for its prompt under max_tokens "
            f"{max_tokens}; raise max_tokens"
        )
    if truncation == "prompt_right":
        return prompt[:room], completion
    kept = 0
    if truncation == "context":
        # The head's last tokens may join with what follows them.
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(head, prompt, strict=False)))
        kept = min(common, room // 2)
    return [*prompt[:kept], *prompt[len(prompt) - (room - kept) :]], completion


def truncated_shares(texts: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """The share of texts that were cut, between 0 and 1: of `ALL` together, and of each part with any.

    Args:
        texts: the part, such as a task, that each text belongs to, and whether it was cut.
    """
    count: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    for part, was_cut in texts:
        count.update((ALL, part))
        if was_cut:
            cut.update((ALL, part))
    return {part: cut[part] / count[part] for part in count if part == ALL or cut[part]}
