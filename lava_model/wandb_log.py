"""Numbers of a run at Weights & Biases, one run there for one run folder, however often it is continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k700_text.files.atomic import write_whole
from lava_model.config import PretrainConfig
from lava_model.errors import MissingExtraError, TrackingError
from lava_model.files import writing
from lava_model.settings import to_dict

if TYPE_CHECKING:
    from lava_model.tracking import Values

_ID_FILE = "wandb.json"
_NOT_ONLINE = ("offline", "dryrun", "disabled")
_INIT_TIMEOUT_SECONDS = 60.0
_FINISH_TIMEOUT_SECONDS = 300.0


class WandbLog:
    """Numbers named kind/value. ``WANDB_MODE`` (online, offline, disabled) is respected, as all of its variables are.

    The run's id is kept in ``wandb.json`` of the run folder: a resumed run goes on there, steps that it already holds
    are not sent again. An offline run leaves one folder for each start under ``wandb/``, for ``wandb sync``.
    """

    def __init__(
        self,
        config: PretrainConfig,
        out: Path,
        *,
        resume_step: int | None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Opens the run, and finds out now whether that is possible.

        Args:
            config: of the run; its settings go along.
            out: run folder.
            resume_step: the step that the run goes on from; None: a new run.
            say: takes the line that tells where the run is shown.

        Raises:
            MissingExtraError: wandb is not installed.
            TrackingError: there is no key, or the service cannot be reached.
            OutputError: the run folder cannot be written.
        """
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("--run.wandb needs wandb: pip install 'k700-text[tracking]'") from error
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        try:
            self._run: Any = self._open(wandb, config, out, None if resume_step is None else _kept_id(out))
        # A value of WANDB_... that does not fit is a ValueError.
        except (wandb.Error, ValueError) as error:
            raise TrackingError(
                f"--run.wandb: Weights & Biases cannot be used ({_brief(error)}): set WANDB_MODE=offline, or leave it"
                " out"
            ) from error
        with writing(out / _ID_FILE):
            write_whole(out / _ID_FILE, json.dumps({"project": config.run.wandb, "id": self._run.id}) + "\n")
        if self._run.offline:
            say(f"Weights & Biases is offline: wandb sync --append {self._run.sync_dir} sends the numbers later")
        elif not self._run.disabled:
            say(f"the numbers are shown at {self._run.url}")

    def _open(self, wandb: Any, config: PretrainConfig, out: Path, kept_id: str | None) -> Any:
        settings = wandb.Settings(
            # stdout is the program's answer, stderr its progress: nothing is captured, nothing printed.
            console="off",
            silent=True,
            init_timeout=_INIT_TIMEOUT_SECONDS,
            # A line that went dead must not keep a finished run from ending.
            finish_timeout=_FINISH_TIMEOUT_SECONDS,
            finish_timeout_raises=True,
        )
        if wandb.setup(settings).settings.mode not in _NOT_ONLINE and not wandb.login(prompt=False, verify=False):
            raise TrackingError(
                "--run.wandb: there is no key for Weights & Biases: run wandb login, or set WANDB_MODE=offline"
            )
        return wandb.init(
            project=config.run.wandb,
            name=out.name,
            id=kept_id,
            # Offline there is nobody to ask: wandb would warn that it does not.
            resume=None if kept_id is None else "allow",
            dir=str(out),
            config=to_dict(config),
            allow_val_change=True,
            settings=settings,
        )

    def log(self, kind: str, step: int, values: Values) -> None:
        """Sends the numbers that are there; a step that the run holds already is left as it is."""
        if step >= self._run.step:
            self._run.log({f"{kind}/{name}": value for name, value in values.items() if value is not None}, step=step)

    def close(self) -> None:
        """Sends what is left and ends the run there; waits five minutes at most."""
        self._run.finish()


def _kept_id(out: Path) -> str | None:
    """Returns the id under which an earlier start of the run folder logs, if there was one."""
    try:
        kept = json.loads((out / _ID_FILE).read_text("utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kept if isinstance(kept, str) else None


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
