"""Exported models on the Hugging Face Hub: the only importer of huggingface_hub (extra ``hub``).

Only the files of an export go up and come down. The library's own settings apply: HF_ENDPOINT, HF_TOKEN, HF_HOME,
HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lava_model
from lava_model.errors import CheckpointError, HubError, LavaError, MissingExtraError
from lava_model.files import located
from lava_model.pretrained import CARD_FILE, CONFIG_FILE, FILES, WEIGHTS_FILE

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_pretrained(path: str | Path, *, revision: str | None = None) -> Path:
    """Returns the folder of an exported model: the one of that name, or a copy of what the Hub has under it.

    Raises:
        CheckpointError: there is no such folder and the name cannot be one of the Hub; or a revision of a folder.
        HubError: the Hub cannot be reached or has no such model.
        MissingExtraError: it is not a folder, and huggingface_hub is not installed.
    """
    if not str(path):
        raise CheckpointError("the place of the model is empty: give a folder, or owner/name on the Hub")
    folder = located(path)
    if folder.exists():
        if revision is not None:
            raise CheckpointError(f"{folder} is a folder: a revision ({revision}) is only for models of the Hub")
        return folder
    if isinstance(path, Path) or not _REPO_ID.fullmatch(path):
        raise CheckpointError(f"there is no such folder: {path} (a model of the Hub is named owner/name)")
    return _download(path, revision)


def check_repo_id(repo_id: str) -> None:
    """Refuses what cannot be the name of a model on the Hub.

    Raises:
        HubError: it cannot.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise HubError(f"{repo_id!r} is not the name of a model on the Hub: use OWNER/NAME")


def push_to_hub(
    folder: str | Path, repo_id: str, *, private: bool = False, revision: str | None = None, message: str | None = None
) -> str:
    """Uploads an exported folder as one commit, all of it or nothing, and returns the commit's address.

    Args:
        folder: an exported model.
        repo_id: ``owner/name``; made if it is not there.
        private: only its owners may see it; refused where it is there and public.
        revision: branch to commit to; made if it is not there.
        message: of the commit.

    Raises:
        CheckpointError: the folder is not an exported model.
        HubError: there is no token, or the Hub cannot be reached or refuses.
        MissingExtraError: huggingface_hub is not installed.
    """
    folder = Path(folder)
    absent = [name for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE) if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"no exported model at {folder}: {absent[0]} is missing")
    hub = _library("to upload a model")
    check_repo_id(repo_id)
    if hub.get_token() is None:
        raise HubError("no Hugging Face token: set HF_TOKEN, or log in with `hf auth login`")
    api = hub.HfApi(library_name="lava_model", library_version=lava_model.__version__)
    operations = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name)
        for name in FILES
        if (folder / name).is_file()
    ]
    with _one_line(repo_id, revision):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise HubError(f"{repo_id} is there already and public: make it private first, or choose another name")
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # Not upload_folder: that makes several commits of a large folder, and people may load it in between.
        commit = api.create_commit(
            repo_id, operations, commit_message=message or "Upload an exported LAVA model", revision=revision
        )
    return str(commit.commit_url)


def _download(repo_id: str, revision: str | None) -> Path:
    hub = _library(f"there is no folder {repo_id}, and to look for it on the Hub")
    try:
        with _one_line(repo_id, revision):
            return Path(
                hub.snapshot_download(
                    repo_id,
                    revision=revision,
                    allow_patterns=list(FILES),
                    library_name="lava_model",
                    library_version=lava_model.__version__,
                )
            )
    except HubError as error:
        # Most who see it meant a folder.
        raise HubError(f"there is no folder {repo_id} here, and {error}") from error


def _library(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError(f"{purpose} needs huggingface_hub: pip install 'k700-text[hub]'") from error
    return huggingface_hub


@contextmanager
def _one_line(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turns whatever the library raises into a HubError of one line."""
    try:
        yield
    except LavaError:
        raise
    except Exception as error:  # its HTTP client's errors come through, whose classes it has changed twice
        raise HubError(_told(error, repo_id, revision)) from error


def _told(error: Exception, repo_id: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision or 'main'} on the Hub: name a branch, tag or commit of it"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo_id} is gated on the Hub: ask for access on its page, then log in (HF_TOKEN or `hf auth login`)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"no model of the name {repo_id} on the Hub that you may see: check the name, and"
            " log in for a private one (HF_TOKEN or `hf auth login`)"
        )
    chain = _chain(error)
    answered = next((one for one in chain if isinstance(one, errors.HfHubHTTPError)), None)
    if answered is not None:
        status: int = answered.response.status_code
        if status in (401, 403):
            return f"the Hub refuses the token for {repo_id} ({status}): use one that may do this (HF_TOKEN)"
        # A ValueError says what of the request is wrong; other wrappers say less than what they wrap.
        reason = error if isinstance(error, ValueError) else answered
        return f"the Hub answers {status} for {repo_id} ({_brief(reason)})" + ": try again later" * (status >= 500)
    if any(isinstance(one, OSError | errors.HTTPError) for one in chain):
        return f"the Hub at {constants.ENDPOINT} cannot be reached for {repo_id} ({_brief(chain[-1])}): try again later"
    return f"the Hub and {repo_id}: {_brief(error)}"


def _chain(error: BaseException) -> list[BaseException]:
    """Returns an error and what caused it: the library wraps a refused connection in advice of several lines."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


def _brief(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return words[:200] or type(error).__name__
