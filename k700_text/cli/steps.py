"""Steps of a demo: each one a command, shown as one would type it, waited for, and remembered once it is finished."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from k700_text.cli.common import EXIT_INTERRUPTED, say
from k700_text.errors import K700TextError, MissingExtraError
from k700_text.files.atomic import whole_file
from k700_text.files.stamps import Stamp, stamp_of
from k700_text.starting import takes_last_word

Answer = dict[str, Any]

_PACKAGE = "k700_text"
# The first Ctrl-C lets a step save what it has, the second ends it without, the third does not ask.
_MOST_INTERRUPTS = 2


def need_packages(names: Iterable[str], *, purpose: str, extra: str) -> None:
    """Checks that packages are installed, without importing them: before a step has taken its minutes.

    Args:
        names: as they are imported.
        purpose: what needs them, for the message.
        extra: the part of this project that brings them.

    Raises:
        MissingExtraError: some are not.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"{purpose} needs {', '.join(missing)}: pip install 'k700-text[{extra}]'")


@dataclass(slots=True)
class Steps:
    """Runs the steps of a demo one after the other and remembers which are finished.

    Attributes:
        total: how many there will be.
        record: JSON file that remembers them between runs; None: every run begins with the first.
    """

    total: int
    record: Path | None = None
    number: int = 0
    _before: dict[str, Any] = field(default_factory=dict)
    _done: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._before = _read(self.record)

    def run(
        self,
        title: str,
        arguments: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        files: Sequence[Path] = (),
        shows: Callable[[Answer], Iterable[str]] = lambda answer: (),
    ) -> Answer:
        """Runs ``python -m ARGUMENTS --json`` and returns the JSON object that it prints; stderr passes through.

        Args:
            title: what the step is about.
            arguments: the module and its options.
            environment: variables beside those of this process.
            files: files and folders that it reads or writes, see ``once``.
            shows: returns lines for the person at the terminal, from the answer.

        Raises:
            K700TextError: the command failed; names it and its exit code.
            KeyboardInterrupt: it was interrupted; it has saved what it had.
        """
        words = [str(argument) for argument in arguments]
        package = words[0].partition(".")[0]
        command = _as_typed(words, environment or {})
        return self.once(
            title,
            lambda: self._answer_of(title, words, environment or {}),
            command=command,
            same=[_without_ports(command), _digest([_code_of(name) for name in {_PACKAGE, package}])],
            files=files,
            shows=shows,
        )

    def once(
        self,
        title: str,
        work: Callable[[], Answer],
        *,
        same: Sequence[str],
        files: Sequence[Path],
        command: str = "",
        shows: Callable[[Answer], Iterable[str]] = lambda answer: (),
    ) -> Answer:
        """Does the work of a step, or returns its answer of an earlier run if nothing that it rests on has changed.

        Args:
            title: what the step is about.
            work: returns the answer, which JSON can hold.
            same: texts that another run must have the same.
            files: what it reads and writes, folders with all in them; none may have changed, come or gone since.
            command: how one would type it.
            shows: returns lines for the person at the terminal, from the answer.
        """
        self.number += 1
        say(f"\n[{self.number}/{self.total}] {title}")
        if command:
            say(f"$ {command}")
        name, before = str(self.number), self._before.get(str(self.number), {})
        if before.get("same") == [title, *same] and before.get("state") == _digest(files):
            say("(finished before, and nothing that it rests on has changed)")
            self._done[name] = before
        else:
            self._done[name] = {"same": [title, *same], "files": [str(path) for path in files], "answer": work()}
            self._remember()
        answer: Answer = self._done[name]["answer"]
        for line in shows(answer):
            say(f"  {line}")
        return answer

    def _remember(self) -> None:
        """Writes down what is finished; steps add to files of earlier ones, which then are as they should be."""
        for step in self._done.values():
            step["state"] = _digest([Path(path) for path in step["files"]])
        if self.record is not None:
            with whole_file(self.record) as output:
                output.write(json.dumps(self._done, indent=1).encode())

    def _answer_of(self, title: str, words: list[str], environment: Mapping[str, str]) -> Answer:
        code, output = _run_to_its_end([sys.executable, "-m", *words, "--json"], {**os.environ, **environment})
        if code == EXIT_INTERRUPTED:
            takes_last_word()  # the command has said so
            raise KeyboardInterrupt
        if code:
            raise K700TextError(f"step {self.number} ({title}) ended with exit code {code}; see above")
        answer: Answer = json.loads(output.splitlines()[-1])
        return answer


def _run_to_its_end(command: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Returns the exit code of a command and what it printed; when interrupted, after it has saved what it had.

    The command is in a process group of its own: Ctrl-C in a terminal reaches this process alone, which passes it on
    once. Else the command could get it twice, and a second one means: at once, without saving.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8", process_group=0
    )
    num_interrupts = 0
    while True:
        try:
            if num_interrupts:
                process.send_signal(_interrupt() if num_interrupts <= _MOST_INTERRUPTS else signal.SIGKILL)
            output, _ = process.communicate()
            break
        except KeyboardInterrupt:
            num_interrupts += 1
            say("interrupted: waiting until this step has saved what it has; Ctrl-C again ends it without")
    if num_interrupts:
        raise KeyboardInterrupt
    return process.returncode, output


def _interrupt() -> signal.Signals:
    """Returns the signal to pass on: a job in the background of a shell is deaf to Ctrl-C, and so is what it starts."""
    return signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT


def _as_typed(words: list[str], environment: Mapping[str, str]) -> str:
    command = ["k700-text", *words[1:]] if words[0] == _PACKAGE else ["python", "-m", *words]
    return " ".join([*(f"{name}={value}" for name, value in environment.items()), shlex.join(command)])


def _without_ports(command: str) -> str:
    """Returns a command without the ports of services that are somewhere else in every run."""
    words = (word.rpartition(":")[0] if "http://127.0.0.1:" in word else word for word in command.split(" "))
    return " ".join(words)


def _code_of(package: str) -> Path:
    """Returns the folder of a package: with other code, a step is another one."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations, package
    return Path(spec.submodule_search_locations[0])


def _digest(paths: Iterable[Path]) -> str:
    """Returns a checksum of the stamps of files and of all files in folders; what is not there has its place, too."""
    stamps: list[object] = []
    for path in sorted(paths):
        if path.is_dir():
            for folder, inner, names in os.walk(path):
                inner[:] = sorted(name for name in inner if name != "__pycache__")
                stamps += [(name, _stamp(Path(folder, name))) for name in sorted(names)]
        else:
            stamps.append((str(path), _stamp(path)))
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()


def _stamp(path: Path) -> Stamp | None:
    try:
        return stamp_of(path)
    except OSError:  # not there, or a link to nowhere
        return None


def _read(record: Path | None) -> dict[str, Any]:
    """Returns what was finished; a record that cannot be read remembers nothing, and every step looks for itself."""
    try:
        found = json.loads(record.read_bytes()) if record is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(step, dict) for step in found.values()) else {}
