"""The division of evaluation sets into a part to train on and a part to test on."""

from __future__ import annotations

from repro.benchmarks.package_data import in_train


def test_linked_items_are_drawn_once() -> None:
    # 40 chains of three: the middle item links the outer two, which share nothing.
    chains = [texts for i in range(40) for texts in [(f"p{i}", f"q{i}"), (f"Q{i}!", f"r{i}"), (f"r{i}",)]]
    sides = in_train("piqa", chains)
    assert all(len(set(sides[i : i + 3])) == 1 for i in range(0, len(sides), 3))
    assert 10 < sum(sides[::3]) < 30


def test_the_draw_depends_on_content_alone() -> None:
    texts = [(f"text {i}", f"text {i + 1}") for i in range(0, 200, 3)]
    forward = dict(zip(texts, in_train("piqa", texts), strict=True))
    backward = dict(zip(texts[::-1], in_train("piqa", texts[::-1]), strict=True))
    assert forward == backward


def test_tasks_are_divided_independently() -> None:
    texts = [(f"text {i}",) for i in range(100)]
    assert in_train("piqa", texts) != in_train("boolq", texts)
