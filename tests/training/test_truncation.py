"""What a training text loses, in single tokens."""

from __future__ import annotations

import pytest

from repro.training.truncation import Truncation, truncated, truncated_shares

# A start token 0, a head 1 2 3, the context 4 5 6 7 8, the options 20 21 and the prompt's last token 30.
PROMPT, HEAD, COMPLETION = [0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 30], [0, 1, 2, 3], [90, 91]


@pytest.mark.parametrize(
    ("truncation", "prompt", "completion"),
    [
        ("context", [0, 1, 2, 3, 7, 8, 20, 21, 30], [90, 91]),
        ("left", [3, 4, 5, 6, 7, 8, 20, 21, 30], [90, 91]),
        ("prompt_right", [0, 1, 2, 3, 4, 5, 6, 7, 8], [90, 91]),
        ("right", [0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 21], []),
    ],
)
def test_eleven_of_fourteen_tokens_stay(
    truncation: Truncation, prompt: list[int], completion: list[int]
) -> None:
    assert truncated(PROMPT, COMPLETION, HEAD, 11, truncation) == (prompt, completion)


def test_the_right_cut_takes_the_completion_first() -> None:
    assert truncated(PROMPT, COMPLETION, HEAD, 13, "right") == (PROMPT, [90])


def test_a_head_whose_last_token_joins_with_the_context_is_kept_up_to_there() -> None:
    cut, _ = truncated(PROMPT, COMPLETION, [0, 1, 2, 99], 11, "context")
    assert cut == [0, 1, 2, 6, 7, 8, 20, 21, 30]


@pytest.mark.parametrize(
    ("max_tokens", "kept"),
    [(8, [0, 1, 2, 20, 21, 30]), (5, [0, 21, 30]), (3, [30]), (13, PROMPT[:4] + PROMPT[5:])],
)
def test_a_long_head_leaves_half_of_the_room(max_tokens: int, kept: list[int]) -> None:
    assert truncated(PROMPT, COMPLETION, HEAD, max_tokens, "context") == (kept, COMPLETION)


@pytest.mark.parametrize("truncation", ["context", "left", "prompt_right"])
def test_a_completion_that_is_to_stay_needs_room(truncation: Truncation) -> None:
    with pytest.raises(ValueError, match=r"2 tokens leaves no room .* max_tokens 2; raise max_tokens"):
        truncated(PROMPT, COMPLETION, HEAD, 2, truncation)


def test_shares_are_of_all_texts_and_of_the_parts_with_any() -> None:
    texts = [("a", True), ("b", False), ("a", False), ("c", True), ("a", False)]
    assert truncated_shares(texts) == {"all": 0.4, "a": 1 / 3, "c": 1.0}
    assert truncated_shares([("a", False)]) == {"all": 0.0}
    assert truncated_shares([]) == {}
