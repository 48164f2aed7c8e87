"""The five metrics: by hand, against the official scores, and without Java."""

from __future__ import annotations

import math
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from repro.benchmarks.e2e.metrics import java, score
from repro.benchmarks.e2e.metrics.bleu import bleu
from repro.benchmarks.e2e.metrics.java import JavaError, Meteor, ptb_tokens
from repro.benchmarks.e2e.metrics.nist import information, nist, tokens
from repro.benchmarks.e2e.records import grouped
from repro.benchmarks.e2e.sources import LocalSource
from repro.training.data import DataError

REFERENCES = [["the cat sat on the mat", "a cat was on the mat"], ["it is cold in here"]]


def test_bleu_by_hand() -> None:
    # Of "the cat was on the mat", 6 of 6 words are in a reference (`the` twice, as in the first), 5 of 5
    # pairs, 3 of 4 triples (not `the cat was`) and 2 of 3 runs of four. The lengths are equal.
    value, _ = bleu(["The cat was on the mat"], REFERENCES[:1])
    assert value == pytest.approx((1 * 1 * 3 / 4 * 2 / 3) ** 0.25)
    # Five words of the same in place of six: brevity penalty exp(1 - 6/5).
    value, _ = bleu(["cat was on the mat"], REFERENCES[:1])
    assert value == pytest.approx(math.exp(1 - 6 / 5))


def test_bleu_is_sacrebleus_of_the_corpus() -> None:
    from sacrebleu.metrics.bleu import BLEU

    hypotheses = ["the cat sat on a mat", "it is very cold in here now"]
    streams = [[REFERENCES[0][0], REFERENCES[1][0]], [REFERENCES[0][1], None]]
    expected = BLEU(lowercase=True).corpus_score(hypotheses, streams).score
    assert 100 * bleu(hypotheses, REFERENCES)[0] == pytest.approx(expected)


def test_nists_tokens_part_punctuation_but_not_numbers() -> None:
    assert tokens("Prices, from £1,000.50 (well-known) - 5-star!") == [
        "prices", ",", "from", "£1,000.50", "(", "well-known", ")", "-", "5", "-", "star", "!",
    ]  # fmt: skip


def test_nists_weights_by_hand() -> None:
    weights = information([[["a", "b", "a"], ["a", "c"]]])
    # Five words, a three times; a is followed by b once, and by c once.
    assert weights["a",] == pytest.approx(math.log2(5 / 3))
    assert weights["b",] == pytest.approx(math.log2(5))
    assert weights["a", "b"] == pytest.approx(math.log2(3))
    assert weights["b", "a"] == 0


def test_nist_by_hand() -> None:
    # Of `a b a`, words weigh log2(3/2) and log2(3), the pair `a b` log2(2) = 1, `b a` and the triple nothing.
    weight = {"a": math.log2(3 / 2), "b": math.log2(3)}
    value, _ = nist(["a b a"], [["a b a"]])
    assert value == pytest.approx((2 * weight["a"] + weight["b"]) / 3 + 1 / 2)
    # Two of three words: the penalty is one half, which is its definition.
    value, _ = nist(["a b"], [["a b a"]])
    assert value == pytest.approx(0.5 * ((weight["a"] + weight["b"]) / 2 + 1))
    # Matches are clipped: a third `a` gains nothing. A longer text has no penalty.
    value, _ = nist(["a a a a"], [["a b a"]])
    assert value == pytest.approx(2 * weight["a"] / 4)


@pytest.mark.parametrize("metric", [bleu, nist])
def test_pseudo_values_have_the_metric_as_mean(metric) -> None:
    hypotheses = ["the cat sat on a mat", "it is cold in there", "nothing at all of this"]
    references = [*REFERENCES, ["nothing at all of that kind"]]
    value, pseudo = metric(hypotheses, references)
    assert len(pseudo) == 3 and np.mean(pseudo) == pytest.approx(value)
    if metric is bleu:  # NIST's weights would change with the references
        without = [
            bleu(hypotheses[:i] + hypotheses[i + 1 :], references[:i] + references[i + 1 :])[0]
            for i in range(3)
        ]
        brute = 3 * value - 2 * np.array(without)
        np.testing.assert_allclose(pseudo, brute - brute.mean() + value)


def needs_java() -> None:
    try:
        ptb_tokens(["a"])
    except JavaError:
        pytest.skip("wants Java")


def test_a_perfect_sentence_and_an_empty_one() -> None:
    needs_java()
    found = score(["It is cold in here.", ""], [["It is cold in here."], ["The cat is on the mat."]])
    assert found["meteor"].per_item[0] > found["meteor"].per_item[1]
    assert found["rouge_l"].per_item == pytest.approx((100, 0))
    for metric in found.values():
        assert np.mean(metric.per_item) == pytest.approx(metric.value)


def test_the_tokeniser_keeps_lines_and_letters_apart() -> None:
    needs_java()
    found = ptb_tokens(["Near Café Rouge, it's £20-25.", "", "(ok)"])
    # A pound is a `#` to it; brackets stay, for COCO's list has them in capitals only.
    assert found == ["near café rouge it 's # 20-25", "", "-lrb- ok -rrb-"]


def test_meteor_is_asked_in_one_process_whatever_the_text() -> None:
    needs_java()
    with Meteor() as meteor:
        whole, segments = meteor.score(["a ||| cat", "a dog"], [["a cat"], ["a dog", "the dog"]])
        again, _ = meteor.score(["a dog"], [["a dog"]])
    assert len(segments) == 2 and 0 < whole <= 1 and again == pytest.approx(segments[1])


def test_without_java_three_metrics_are_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = score(["the cat"], [["the cat"]])
    assert found["nist"].value is not None and found["bleu"].value is not None
    for column in ("meteor", "rouge_l", "cider"):
        assert found[column].value is None and found[column].per_item == ()
        assert "there is no Java; install a Java runtime" in found[column].missing


@pytest.mark.skipif("REPRO_DATA_DIR" not in os.environ, reason="wants the local data folder")
def test_the_official_case_has_the_official_scores() -> None:
    needs_java()
    lines = (Path(os.environ["REPRO_DATA_DIR"]) / "e2e/check/predictions.dev.txt").read_text().splitlines()
    references = [record.references for record in grouped(LocalSource().load("validation"))]
    found = {name: metric.value for name, metric in score(lines, references).items()}
    official = {"bleu": 71.45, "nist": 8.4414, "meteor": 47.26, "rouge_l": 73.84, "cider": 2.3798}
    for name, value in official.items():
        assert found[name] == pytest.approx(value, abs=0.5e-2 if value > 10 else 0.5e-4), name


@pytest.mark.parametrize(
    ("hypotheses", "references"),
    [
        ([], []),
        (["a"], []),
        (["a"], [[]]),
        (["a"], ["a"]),
        (["a"], [[None]]),
        ([None], [["a"]]),
        (["a", 1], [["a"]] * 2),
    ],
    ids=repr,
)
def test_what_is_no_text_is_not_scored(hypotheses: list, references: list) -> None:
    with pytest.raises(DataError, match="sentences"):
        score(hypotheses, references)


# What a Java does wrong, as a shell script in its place; and what is said.
TOKENISES = """case "$*" in *PTBTokenizer*) exec cat;; esac"""
FAULTS = {
    "hangs": ("exec sleep 60", "PTB tokeniser gave no answer in"),
    "hangs in a child": ("sleep 60 & wait", "PTB tokeniser gave no answer in"),
    "dies": ("echo 'Error: no jar' >&2; exit 3", "gave 0 lines for 2 .'Error: no jar'"),
    "too old": ("printf 'Exception: version 52\\n\\tat a.b\\n' >&2; exit 1", "Exception: version 52"),
    "other lines": ("echo a", "gave 1 lines for 2"),
    "no text": ("printf '\\377\\n'", "gave 1 lines for 2"),
    "METEOR hangs": (f"{TOKENISES}; exec sleep 60", "METEOR gave no answer in"),
    "METEOR dies": (f"{TOKENISES}; echo 'Error: heap' >&2; exit 1", "METEOR's process ended .'Error: heap'"),
    "METEOR babbles": (f"{TOKENISES}; while read line; do echo hello; done", "METEOR answers 'hello'"),
    "METEOR is no number": (f"{TOKENISES}; while read line; do echo NaN; done", "METEOR answers 'NaN'"),
}


def running_groups() -> set[str]:
    """Process groups with a member that has not ended."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            state, _, group, *_ = stat.read_text().rpartition(")")[2].split()
            found |= set() if state == "Z" else {group}
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_java_with_a_fault_leaves_the_other_metrics(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, message = FAULTS[fault]
    program = tmp_path / "java"
    program.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/started\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(java, "LIMIT_SECONDS", 1)
    found = score(["Alpha is a pub."], [["Alpha is a pub."]])
    assert found["bleu"].value == pytest.approx(100) and found["nist"].value is not None
    for column in ("meteor", "rouge_l", "cider"):
        assert found[column].value is None
        assert re.search(message, found[column].missing) and "\n" not in found[column].missing
    started, limit = {*(tmp_path / "started").read_text().split()}, time.monotonic() + 30
    # A killed child is no longer ours to wait for, and a busy machine takes a moment to end it.
    while started & running_groups() and time.monotonic() < limit:
        time.sleep(0.05)
    assert not started & running_groups()


def test_a_java_that_cannot_be_started_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "java").write_bytes(b"\x7fELF no program")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "cannot be started" in score(["a"], [["a"]])["cider"].missing
