"""Both distributions build, and work where the clone is not: the method alone, and the harness."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro.paths import ROOT

PROJECT = ROOT / "scripts" / "dual-lora"
INCLUDED = {
    target: (PROJECT / source).resolve()
    for source, target in tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]["force-include"].items()
}
# torch and peft are the distribution's dependencies; peft brings transformers and huggingface_hub, and torch
# Triton where it can be used.
FOREIGN = {"torch", "peft", "transformers", "huggingface_hub", "triton"}


def _modules() -> dict[str, Path]:
    """The distribution's Python files by their place in it."""
    return {
        (Path(target) / path.relative_to(source)).as_posix(): path
        for target, source in INCLUDED.items()
        for path in [source, *source.rglob("*")]
        if path.suffix == ".py" and path.is_file()
    }


def _imported(place: str, path: Path) -> Iterator[str]:
    """What a file imports: top names of other packages, and places in the distribution."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            folder = Path(place).parents[node.level - 1]
            module = folder.joinpath(*(node.module or "").split("."))
            for name in [alias.name for alias in node.names] if node.module is None else [""]:
                yield (module / name).as_posix()


def test_the_method_alone_imports_only_what_it_brings_along() -> None:
    modules = _modules()
    assert "dual_lora/adapters/dual_lora/backend.py" in modules
    there = {place.removesuffix(".py").removesuffix("/__init__") for place in modules}
    missing = [
        f"{place} imports {name}"
        for place, path in modules.items()
        for name in _imported(place, path)
        if name not in there | FOREIGN | sys.stdlib_module_names
        and not (name == "repro" and place == "dual_lora/__init__.py")
    ]
    assert missing == [], "name the file in scripts/dual-lora/pyproject.toml"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="needs hatchling, of the extra `dev`")
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, PROJECT):
        how = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "wheel", *how, str(project)], check=True)
    return folder


def _installed(wheels: Path, name: str, folder: Path) -> Path:
    (wheel,) = wheels.glob(f"{name}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _run(*words: str, cwd: Path, packages: list[Path]) -> subprocess.CompletedProcess[str]:
    """Run Python with these packages, before what the tests' environment has."""
    ran = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, packages)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran


TRAINS = """\
import sys
import torch
from dual_lora import DualLoraConfig, DualLoraLayer
from peft import AutoPeftModelForCausalLM, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

assert not [name for name in sys.modules if name == "repro" or name.startswith("repro.")]
torch.manual_seed(0)
tiny = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
)
AutoModelForCausalLM.from_config(tiny).save_pretrained("base")
base = AutoModelForCausalLM.from_pretrained("base")
model = get_peft_model(base, DualLoraConfig(target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
tokens = torch.randint(64, (4, 16))
losses = []
for _ in range(5):
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
assert losses[-1] < losses[0], losses
model.save_pretrained("adapter", save_embedding_layers=False)
assert "import dual_lora\\n" in open("adapter/README.md").read()
loaded = AutoPeftModelForCausalLM.from_pretrained("adapter").eval()
with torch.no_grad():
    assert torch.equal(loaded(tokens).logits, model.eval()(tokens).logits)
assert any(isinstance(module, DualLoraLayer) for module in loaded.modules())
try:
    import repro.adapters
except ModuleNotFoundError:
    pass
except ImportError as error:
    assert "import repro.adapters before dual_lora" in str(error)
    print("refused")
"""

TOGETHER = """\
import repro.adapters.dual_lora, dual_lora
assert dual_lora.DualLoraConfig is repro.adapters.dual_lora.DualLoraConfig
assert {sys_path!r} in dual_lora.__file__ and {sys_path!r} in repro.__file__, repro.__file__
from repro.cli import main
raise SystemExit(main(["merge", "adapter", "merged"]))
"""


def test_both_work_from_their_wheels(wheels: Path, tmp_path: Path) -> None:
    work, packages = tmp_path / "work", tmp_path / "packages"
    work.mkdir()
    method = _installed(wheels, "dual_lora", packages / "method")
    harness = _installed(wheels, "dual_lora_repro", packages / "harness")
    assert {path.name for path in (method / "dual_lora").iterdir()} == {
        "LICENSE", "__init__.py", "adapters", "files.py", "kernel_variable.py"
    }  # fmt: skip
    trained = _run("-c", TRAINS, cwd=work, packages=[method, harness])
    assert trained.stdout == "refused\n"
    both = TOGETHER.format(sys_path=str(packages))
    merged = _run("-c", both, cwd=work, packages=[method, harness])
    assert "merged: 2 layers" in merged.stdout and (work / "merged" / "model.safetensors").is_file()
    assert "VERB" in _run("-m", "repro.cli", "--help", cwd=work, packages=[harness]).stdout
