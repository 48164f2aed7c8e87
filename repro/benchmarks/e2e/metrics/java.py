"""The two Java programs that pycocoevalcap ships: Stanford's PTB tokeniser, and METEOR 1.5.

pycocoevalcap's own wrappers write into their package's folder and use the platform's character set; these do
neither. One process serves a whole evaluation.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

# METEOR keeps its paraphrase table (60 MB packed) in memory; pycocoevalcap gives it as much.
_HEAP = "-Xmx2G"
# For every locale: without it "Café" comes back as "Caf?".
_UTF8 = ("-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8")

# Tokens that COCO's evaluation removes after tokenising.
_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


class JavaError(RuntimeError):
    """A metric cannot be computed; the message says why and what to do."""


def ptb_tokens(lines: Sequence[str]) -> list[str]:
    """Each line's tokens, lower case, without punctuation, joined by spaces.

    Raises:
        JavaError: there is no Java, or it failed.
    """
    command = [
        *_java("tokenizer/stanford-corenlp-3.4.1.jar", "-cp"),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    found = done.stdout.decode().split("\n")[:-1]
    if done.returncode != 0 or len(found) != len(lines):
        raise JavaError(
            f"the PTB tokeniser gave {len(found)} lines for {len(lines)} ({_reason(done.stderr)}); see "
            "whether `java -version` works and there is memory to spare"
        )
    return [" ".join(word for word in line.split(" ") if word not in _PUNCTUATION).strip() for line in found]


class Meteor:
    """METEOR 1.5 for English, normalised, as a process that answers line by line."""

    def __enter__(self) -> Meteor:
        self._process = subprocess.Popen(
            [*_java("meteor/meteor-1.5.jar", _HEAP, "-jar"), "-", "-", "-stdio", "-l", "en", "-norm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def score(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[float, list[float]]:
        """METEOR of all sentences together and of each, between 0 and 1, from tokenised text.

        Raises:
            JavaError: the process died.
        """
        counts = []
        for said, wanted in zip(hypotheses, references, strict=True):
            # Three bars separate the fields of a line, so no text may contain them.
            texts = [text.replace("|||", "") for text in (*wanted, said)]
            counts.append(self._ask(" ||| ".join(["SCORE", *texts])))
        segments = [float(self._ask(" ||| ".join(["EVAL", *counts])))]
        segments += [float(self._answer()) for _ in counts[1:]]
        return float(self._answer()), segments

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer will be missing, and that is reported
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise JavaError("METEOR's process ended; it wants 2 GB of memory, see whether there are as many")
        return answer


def _java(jar: str, *options: str) -> list[str]:
    """The beginning of a command line that ends with the jar's path."""
    java = shutil.which("java")
    if java is None:
        raise JavaError(
            "there is no Java; install a Java runtime (Debian: default-jre-headless), then `repro score`"
        )
    package = find_spec("pycocoevalcap")
    assert package is not None and package.submodule_search_locations
    return [java, *_UTF8, *options, str(Path(package.submodule_search_locations[0], jar))]


def _reason(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
