"""What is installed where there is no network, or hashes are asked for: the tested versions and no others."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from repro.paths import ROOT
from tests.test_makefile import run_make

HASHED = (ROOT / "requirements-hashed.txt").read_text(encoding="utf-8")
RECIPE = (ROOT / "scripts" / "apptainer.def").read_text(encoding="utf-8")


def _requirements(text: str) -> dict[str, Requirement]:
    """Requirements by name; pip's continued lines hold hashes."""
    whole = re.sub(r" \\\n\s+--hash=\S+", "", text)
    found = [Requirement(line) for line in whole.splitlines() if line and not line.startswith("#")]
    assert len({(canonicalize_name(r.name), str(r.marker)) for r in found}) == len(found)
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_both_files_name_the_same_versions() -> None:
    tested = _requirements((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    hashed = _requirements(HASHED)
    for name, requirement in hashed.items():
        if name in tested:
            assert requirement.specifier == tested[name].specifier, f"{name}: run `make lock`"
        else:  # what only some systems need, among it CUDA's libraries
            assert requirement.marker is not None, f"{name} is not in constraints.txt"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assets = re.findall(r"^ASSETS := (.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for requirement in map(Requirement, [*asked, *assets[0].split()]):
        pin = hashed.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is missing: run `make lock`"
        assert all(requirement.specifier.contains(p.version) for p in pin.specifier)


def test_every_file_that_is_installed_has_a_sha256() -> None:
    for entry in re.split(r"^(?=[^\s#])", HASHED, flags=re.MULTILINE)[1:]:
        first, *rest = (line.removesuffix(" \\") for line in entry.splitlines())
        assert re.match(r"[\w.-]+==\S+", first), first
        assert rest and all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in rest), first


@pytest.mark.parametrize(
    ("settings", "commands"),
    [
        (
            ["WHEELHOUSE=wheels here"],
            ["install --quiet --no-index --find-links 'wheels here' -c constraints.txt torch"],
        ),
        (
            ["TORCH_INDEX=https://x/cpu"],
            ["install --quiet --extra-index-url https://x/cpu -c constraints.txt torch"],
        ),
        (
            ["HASHES=1"],
            [
                "install --quiet --require-hashes --no-deps -r requirements-hashed.txt",
                "install --quiet --no-deps --no-build-isolation -e .",
            ],
        ),
    ],
)
def test_where_packages_come_from(settings: list[str], commands: list[str]) -> None:
    lines = run_make("--dry-run", "--always-make", ".venv", *settings)
    installs = [" ".join(line.split()).partition("-m pip ")[2] for line in lines if "-m pip " in line]
    assert installs[: len(commands)] == commands
    if "HASHES=1" not in settings:
        source = commands[0].partition(" -c ")[0]
        assert len(installs) == 3 and all(line.startswith(source) for line in installs)


def _sections() -> dict[str, str]:
    parts = re.split(r"^%(\w+)\n", RECIPE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_recipe_of_the_image_is_made_of_files_that_exist_and_scripts_that_parse() -> None:
    """Apptainer itself is not tested here: Debian has no package of it."""
    sections = _sections()
    assert sections.keys() == {"files", "post", "environment", "runscript", "test"}
    header = [line.partition(": ")[0] for line in RECIPE.partition("\n\n")[0].splitlines()]
    assert header == ["Bootstrap", "From"]
    for line in sections.pop("files").split("\n"):
        assert not line or (ROOT / line.split()[0]).is_file()
    for name, script in sections.items():
        parsed = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True)
        assert parsed.returncode == 0, f"{name}: {parsed.stderr}"


def test_the_image_runs_the_makefiles_targets_with_its_own_programs() -> None:
    command = _sections()["runscript"].split("exec make ")[1].split()[:2]
    made = run_make("--dry-run", *command, "table1", "PROFILE=paper")
    assert [line.rstrip() for line in made] == ["/usr/local/bin/repro run table1 --profile paper"]
