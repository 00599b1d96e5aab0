"""Exported models on the Hub: up and down through the real library, against a stand-in of the Hub on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from k700_text.data.text import train_tokenizer
from lava_model import Lava
from lava_model.errors import CheckpointError, HubError, LavaError, MissingExtraError
from lava_model.export import main
from lava_model.hub import push_to_hub
from lava_model.pretrained import FILES
from tests.lava_model.hub_server import TOKEN, Hub, serve_hub
from tests.lava_model.tiny import TINY

# The library's own way of sending a file by Git LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "someone/lava-tiny"
SMALL = replace(TINY, vocab_size=300, trunk_stage=1)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[Hub]:
    with serve_hub() as hub:
        yield hub


@pytest.fixture
def hub(stand_in, tmp_path, monkeypatch) -> Hub:
    """An empty stand-in that the library takes for the Hub, with a token and a cache of our own."""
    for name in ("repos", "objects", "faults", "requests"):
        getattr(stand_in, name).clear()
    # HF_ENDPOINT is read when the library is imported.
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", stand_in.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(
        constants, "HF_HUB_DISABLE_XET", True
    )  # so large files go by Git LFS, which can be stood in for
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    return stand_in


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    train_tokenizer(["a dog", "two cats"] * 3, folder / "tok.json", 270)
    torch.manual_seed(0)
    Lava(SMALL).save_pretrained(folder / "model", tokenizer=folder / "tok.json")
    return folder / "model"


def files_of(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    repo = hub.repos[REPO]
    return repo.commits[repo.branches[revision]]


def test_what_goes_up_comes_down_bit_for_bit(hub, exported, tmp_path):
    address = push_to_hub(exported, REPO)
    assert address.startswith(f"{hub.endpoint}/{REPO}/commit/")
    for name in FILES:
        assert files_of(hub)[name] == (exported / name).read_bytes()
    assert hub.repos[REPO].lfs_paths == {"model.safetensors"}
    assert len(hub.repos[REPO].commits) == 2  # its first, and all of ours in one

    model, same = Lava.from_pretrained(REPO), Lava.from_pretrained(exported)
    assert model.config == same.config
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert model.tokenizer.path.read_bytes() == (exported / "tokenizer.json").read_bytes()

    # Only what belongs to an export comes down, and with the Hub away the copy serves.
    hub.repos[REPO].commits[hub.repos[REPO].branches["main"]]["run_me.py"] = b"raise SystemExit"
    snapshot = model.tokenizer.path.parent
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(FILES)
    hub.faults["."] = 503
    assert Lava.from_pretrained(REPO).config == model.config


def test_revisions_are_branches_tags_and_commits(hub, exported, tmp_path):
    push_to_hub(exported, REPO)
    torch.manual_seed(1)
    other = Lava(replace(SMALL, width=16))
    other.save_pretrained(tmp_path / "other")
    commit = push_to_hub(tmp_path / "other", REPO, revision="narrow").rsplit("/", 1)[1]
    assert [Lava.from_pretrained(REPO, revision=revision).config.width for revision in ("main", "narrow", commit)] == [
        32,
        16,
        16,
    ]
    with pytest.raises(HubError, match="has no revision wide"):
        Lava.from_pretrained(REPO, revision="wide")
    with pytest.raises(CheckpointError, match="is a folder: a revision"):
        Lava.from_pretrained(exported, revision="main")


def test_a_folder_of_that_name_comes_before_the_hub(hub, exported, tmp_path):
    (tmp_path / "someone").mkdir()
    (tmp_path / REPO).symlink_to(exported)
    assert Lava.from_pretrained(REPO).config.width == 32
    assert hub.requests == []


def test_a_private_model_needs_the_token_and_is_never_pushed_to_a_public_one(hub, exported, monkeypatch):
    push_to_hub(exported, REPO, private=True)
    assert hub.repos[REPO].private
    push_to_hub(exported, REPO, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="no model of the name someone/lava-tiny on the Hub that you may see"):
        Lava.from_pretrained(REPO)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repos[REPO].private = False
    before = dict(files_of(hub))
    with pytest.raises(HubError, match="is there already and public"):
        push_to_hub(exported, REPO, private=True)
    assert files_of(hub) == before


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("create", 401, "the Hub refuses the token for someone/lava-tiny"),
        ("create", 403, "the Hub refuses the token for someone/lava-tiny"),
        ("create", 500, "the Hub answers 500 for someone/lava-tiny"),
        ("validate-yaml", 400, "Invalid metadata in README.md"),
        ("preupload", 503, "the Hub answers 503"),
        ("lfs/objects/batch", 413, "the Hub answers 413"),
        ("PUT /lfs", 500, "the Hub answers 500"),
        ("commit", 404, "the Hub answers 404"),
    ],
)
def test_a_refused_upload_is_one_line(hub, exported, fault, status, message):
    hub.faults[fault] = status
    with pytest.raises(HubError) as failure:
        push_to_hub(exported, REPO)
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)
    assert REPO not in hub.repos or list(files_of(hub)) == [".gitattributes"]


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ("GET /api/models", 401, "the Hub refuses the token"),
        ("GET /api/models", 404, "the Hub answers 404"),
        ("GET /api/models", 502, "the Hub answers 502"),
        ("resolve", 500, "the Hub answers 500"),
    ],
)
def test_a_refused_download_is_one_line(hub, exported, fault, status, message):
    push_to_hub(exported, REPO)
    hub.faults[fault] = status
    with pytest.raises(HubError) as failure:
        Lava.from_pretrained(REPO)
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_hub_out_of_reach_is_one_line(hub, exported, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    cannot = r"the Hub at http://127\.0\.0\.1:9 cannot be reached.*refused"
    absent = r"^there is no folder someone/lava-tiny here, and "
    for act, told in ((Lava.from_pretrained, absent), (lambda name: push_to_hub(exported, name), "^")):
        with pytest.raises(HubError, match=told + cannot) as failure:
            act(REPO)
        assert "\n" not in str(failure.value)


def test_what_the_hub_has_is_refused_if_it_is_no_model_of_ours(hub, exported):
    with pytest.raises(
        HubError, match="there is no folder someone/lava-tiny here, and no model of the name someone/lava-tiny"
    ):
        Lava.from_pretrained(REPO)
    push_to_hub(exported, REPO)
    del files_of(hub)["config.json"]
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        Lava.from_pretrained(REPO)


def test_without_token_library_or_a_good_name_nothing_is_sent(hub, exported, monkeypatch):
    def refused(kind: type[LavaError], message: str, folder: Path = exported, repo_id: str = REPO) -> None:
        with pytest.raises(kind, match=message):
            push_to_hub(folder, repo_id)

    refused(HubError, "'lava' is not the name of a model on the Hub: use OWNER/NAME", repo_id="lava")
    refused(CheckpointError, r"config\.json is missing", folder=exported.parent)
    monkeypatch.delenv("HF_TOKEN")
    refused(HubError, "no Hugging Face token: set HF_TOKEN, or log in with `hf auth login`")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(MissingExtraError, r"pip install 'k700-text\[hub\]'")
    with pytest.raises(MissingExtraError, match=r"there is no folder someone/lava-tiny.*pip install"):
        Lava.from_pretrained(REPO)
    for name in ("/absent", "a/b/c", "../up", "", Path(REPO)):
        with pytest.raises(CheckpointError):
            Lava.from_pretrained(name)
    assert hub.requests == []


def test_the_program_exports_and_pushes_with_the_name_in_the_card(hub, exported, tmp_path, capsys):
    assert main([str(exported), "--out", "out", "--push", REPO, "--private"]) == 0
    assert f"and at {hub.endpoint}/{REPO}/commit/" in capsys.readouterr().out
    assert f'from_pretrained("{REPO}")' in files_of(hub)["README.md"].decode()
    hub.faults["commit"] = 500
    assert main([str(exported), "--out", "out2", "--push", REPO]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the Hub answers 500")


@pytest.mark.slow
def test_programs_of_their_own_find_the_hub_by_its_environment(hub, exported, tmp_path):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-m", "lava_model.export", str(exported), "--out", "out", "--push", REPO)
    code = f"from lava_model import Lava; print(Lava.from_pretrained({REPO!r}).tokenizer.path)"
    path = Path(run("-c", code).strip())
    assert path.is_relative_to(tmp_path / "home")
    assert path.read_bytes() == (exported / "tokenizer.json").read_bytes()
