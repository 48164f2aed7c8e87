"""The two Java programs that pycocoevalcap ships: Stanford's PTB tokeniser, and METEOR 1.5.

pycocoevalcap's own wrappers write into their package's folder and use the platform's character set; these do
neither. One process serves a whole evaluation.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from tempfile import TemporaryFile
from threading import Event, Timer
from types import TracebackType
from typing import IO

from repro.training.data_files import shown

# METEOR keeps its paraphrase table (60 MB packed) in memory; pycocoevalcap gives it as much.
_HEAP = "-Xmx2G"
# The whole of E2E takes a minute; a Java that hangs would hold a GPU for ever.
LIMIT_SECONDS = 300
_REMEDY = "see whether `java -version` works and 2 GB of memory are free, then `repro score`"
# METEOR's counts of a sentence have a few hundred characters.
_LONGEST_ANSWER = 2**16
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
        JavaError: there is no Java, or it failed, hangs, or gave other lines.
    """
    command = [
        *_java("tokenizer/stanford-corenlp-3.4.1.jar", "-cp"),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    text = "".join(f"{line}\n" for line in lines)
    with _started(command, PIPE, PIPE, PIPE) as process:
        try:
            out, said = process.communicate(text.encode(), timeout=LIMIT_SECONDS)
        except TimeoutExpired as error:
            raise JavaError(f"the PTB tokeniser gave no answer in {LIMIT_SECONDS} s; {_REMEDY}") from error
    found = out.decode(errors="replace").split("\n")[:-1]
    if process.returncode != 0 or len(found) != len(lines):
        raise JavaError(
            f"the PTB tokeniser gave {len(found)} lines for {len(lines)} ({_reason(said)}); {_REMEDY}"
        )
    return [" ".join(word for word in line.split(" ") if word not in _PUNCTUATION).strip() for line in found]


class Meteor:
    """METEOR 1.5 for English, normalised, as a process that answers line by line.

    Raises:
        JavaError: on entering, where there is no Java.
    """

    def __enter__(self) -> Meteor:
        command = [*_java("meteor/meteor-1.5.jar", _HEAP, "-jar"), "-", "-", "-stdio", "-l", "en", "-norm"]
        with ExitStack() as stack:
            self._said = stack.enter_context(TemporaryFile())  # a pipe that nobody reads would fill up
            self._process = stack.enter_context(_started(command, PIPE, PIPE, self._said))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def score(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[float, list[float]]:
        """METEOR of all sentences together and of each, between 0 and 1, from tokenised text.

        Raises:
            JavaError: the process died, hangs, or answers something else.
        """
        counts = []
        for said, wanted in zip(hypotheses, references, strict=True):
            # Three bars separate the fields of a line, so no text may contain them.
            texts = [text.replace("|||", "") for text in (*wanted, said)]
            counts.append(self._ask(" ||| ".join(["SCORE", *texts])))
        segments = [self._share(self._ask(" ||| ".join(["EVAL", *counts])))]
        segments += [self._share(self._ask()) for _ in counts[1:]]
        return self._share(self._ask()), segments

    def _ask(self, line: str | None = None) -> str:
        """The next answer, to a question unless it was asked before."""
        assert self._process.stdin is not None and self._process.stdout is not None
        late = Event()

        def kill() -> None:
            late.set()
            _kill(self._process)

        timer = Timer(LIMIT_SECONDS, kill)
        timer.start()
        try:
            with suppress(OSError):  # the answer will be missing, and that is reported
                if line is not None:
                    self._process.stdin.write(f"{line}\n".encode())
                    self._process.stdin.flush()
            answer = self._process.stdout.readline(_LONGEST_ANSWER).decode(errors="replace").strip()
        finally:
            timer.cancel()
        if late.is_set():
            raise JavaError(f"METEOR gave no answer in {LIMIT_SECONDS} s; {_REMEDY}")
        if not answer:
            _kill(self._process)
            self._said.seek(0)
            raise JavaError(f"METEOR's process ended ({_reason(self._said.read())}); {_REMEDY}")
        return answer

    def _share(self, answer: str) -> float:
        """A score; anything else is no METEOR."""
        try:
            found = float(answer)
        except ValueError:
            found = math.nan
        if not 0 <= found <= 1:
            raise JavaError(f"METEOR answers {shown(answer)}, which is no score; {_REMEDY}")
        return found


@contextmanager
def _started(command: list[str], stdin: int, stdout: int, stderr: int | IO[bytes]) -> Iterator[Popen[bytes]]:
    """A process that ends, with all that it started, when the block does."""
    try:
        process = Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
    except OSError as error:
        raise JavaError(f"{command[0]} cannot be started ({error.strerror}); {_REMEDY}") from error
    try:
        yield process
    finally:
        _kill(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):  # what is still to be written has no reader
                    pipe.close()


def _kill(process: Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
    """The line of a Java's complaint that says what is wrong; a trace of calls follows it."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    telling = [line for line in lines if "Error" in line or "Exception" in line]
    return shown([*telling, *lines[-1:], "no message"][0])
