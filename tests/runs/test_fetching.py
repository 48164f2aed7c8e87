"""`repro fetch` against a hub over HTTP: only what is needed, whole, and no fault stops the others."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import huggingface_hub.constants
import pytest

from repro import hub
from repro.benchmarks.hub_sets import hub_sets
from repro.cli import main
from repro.hub import Repository
from repro.models.loading import check_available
from repro.models.spec import load_model_spec
from tests.fake_hub import FakeHub, FakeRepository, served

BIG = bytes(range(256)) * 256
MODEL = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "tokenizer.model": b"tokens",
    "tokenizer_config.json": b"{}",
    "special_tokens_map.json": b"{}",
    "model.safetensors": BIG,
}
NOT_NEEDED = {
    "README.md": b"?",
    ".gitattributes": b"?",
    "modeling.py": b"?",
    "pytorch_model.bin": b"?",
    "tf_model.h5": b"?",
    "flax_model.msgpack": b"?",
    "onnx/model.onnx": b"?",
    "onnx/config.json": b"?",
    "original/consolidated.00.pth": b"?",
    "original/tokenizer.model": b"?",
    "USE_POLICY.md": b"?",
}
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
LLAMA_7B, LLAMA2_7B = load_model_spec("llama-7b"), load_model_spec("llama2-7b")


class Served(NamedTuple):
    hub: FakeHub
    cache: Path


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Two models of Table 1, one gated, and its data sets; an empty cache."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    repositories = {
        model.checkpoint: FakeRepository(MODEL | NOT_NEEDED, names=(str(model.revision),), gated=model.gated)
        for model in (LLAMA_7B, LLAMA2_7B)
    }
    for found in hub_sets("commonsense").values():
        files = {"README.md": b"---\n---\n", "data/train-00000-of-00001.parquet": b"rows", "piqa.py": b"?"}
        repositories[f"datasets/{found.repository}"] = FakeRepository(files, names=(str(found.revision),))
    with served(repositories, monkeypatch) as hub:
        yield Served(hub, cache)


def run(*arguments: str) -> int:
    return main(["fetch", "table1", "--profile", "paper", *arguments])


def test_only_the_files_needed_are_fetched_once(online: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--models", "llama-7*") == 0
    out = capsys.readouterr().out
    row = next(line.split() for line in out.splitlines() if line.startswith("llama-7b"))
    assert row == [
        "llama-7b",
        "yahma/llama-7b-hf",
        str(LLAMA_7B.revision)[:20],
        "6",
        "0.06",
        "MiB",
        "0.00",
        "MiB",
    ]
    assert "there, and checked: 8 of 8" in out
    assert not online.hub.served.keys() & (NOT_NEEDED.keys() - {"README.md"} | {"piqa.py"})
    assert online.hub.served["model.safetensors"] == 1
    # Found by those who load it, though the server calls its commit otherwise.
    check_available(LLAMA_7B)
    sent = online.hub.served.total()
    assert run("--models", "llama-7b") == 0
    assert online.hub.served.total() == sent


def test_a_dry_run_prints_the_sizes_alone(online: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--models", "llama-7b", "--dry-run") == 0
    assert "to download: 0.06 MiB; free in " in capsys.readouterr().out
    assert online.hub.served.total() == 0 and not online.cache.exists()


def test_a_gated_and_a_missing_model_do_not_stop_the_others(
    online: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run() == 1
    shown = capsys.readouterr()
    assert "there, and checked: 8 of 12" in shown.out
    lines = [line for line in shown.err.splitlines() if line.startswith("missing: ")]
    assert [line.split(",")[0] for line in lines] == [
        "missing: llama-13b", "missing: llama3-8b", "missing: llama3-70b", "missing: llama2-7b",
    ]  # fmt: skip
    assert (
        "accept its licence at https://huggingface.co/meta-llama/Llama-2-7b-hf, then run `hf auth" in lines[3]
    )
    assert "there is no https://huggingface.co/yahma/llama-13b-hf" in lines[0]
    monkeypatch.setenv("HF_TOKEN", online.hub.token)
    assert run("--models", "llama-7b,llama2-7b") == 0


def test_ungated_leaves_out_what_needs_a_licence(online: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--ungated", "--dry-run") == 1
    shown = capsys.readouterr()
    assert "meta-llama" not in shown.out and "missing: llama-13b" in shown.err


def test_a_damaged_file_is_fetched_again_once(online: Served, capsys: pytest.CaptureFixture[str]) -> None:
    online.hub.damaged += ["model.safetensors", "tokenizer.model"]
    assert run("--models", "llama-7b") == 0
    assert "damaged, fetched once more: tokenizer.model, model.safetensors" in capsys.readouterr().err
    assert online.hub.served["model.safetensors"] == 2
    # In the cache already, of the right size.
    (path,) = online.cache.glob("models--yahma--llama-7b-hf/snapshots/*/model.safetensors")
    path.write_bytes(bytes(len(BIG)))
    assert run("--models", "llama-7b") == 0
    assert path.read_bytes() == BIG
    shutil.rmtree(online.cache)
    online.hub.damaged += ["model.safetensors"] * 2
    assert run("--models", "llama-7b") == 1
    assert "llama-7b-hf: damaged twice: model.safetensors; run the same command" in capsys.readouterr().err


def test_an_interrupted_download_goes_on(online: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # 10 MB, and kept as a whole
    online.hub.dropped.append("model.safetensors")
    assert run("--models", "llama-7b") == 0
    assert online.hub.resumed == [len(BIG) // 2]
    check_available(LLAMA_7B)


def test_a_disk_that_does_not_suffice_is_one_line(
    online: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert run("--models", "llama-7b") == 1
    shown = capsys.readouterr()
    assert shown.err == "0.06 MiB too little; set HF_HOME to a larger disk, or take fewer --models\n"
    assert online.hub.served.total() == 0


def test_an_unknown_model_is_one_line(online: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--models", "llama-8b") == 2
    assert "unknown model 'llama-8b'" in capsys.readouterr().err


def test_without_a_network_it_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert run() == 2
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err


def test_a_profile_without_the_hub_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "table1", "--profile", "smoke"]) == 0
    assert "need no hub" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("there", "weights"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["pytorch_model.bin", "rust_model.ot", "tf_model.h5"], ["pytorch_model.bin"]),
        (
            ["model.safetensors.index.json", *SHARDS,
             "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
            ["model.safetensors.index.json", *SHARDS],
        ),
        (
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "model.fp16.safetensors"],
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
        ),
    ],
)  # fmt: skip
def test_weights_are_fetched_in_one_format(there: list[str], weights: list[str]) -> None:
    tokenizers = ["spm.model", "vocab.json", "merges.txt", "added_tokens.json"]
    needed = Repository("model", "x/y").needed([*there, *tokenizers, "config.json", "training_args.bin"])
    assert sorted(needed) == sorted([*weights, *tokenizers, "config.json"])


def test_the_page_of_a_repository() -> None:
    assert hub.Repository("dataset", "x/y").page == "https://huggingface.co/datasets/x/y"
