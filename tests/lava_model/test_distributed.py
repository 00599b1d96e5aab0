"""Real gloo processes against one: the loss and every gradient, the single collectives, and a rank that is lost."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
import torch
from loss_dense import dense_loss
from loss_ranks import PER_RANK, build_model, configs, embeddings_of, name_of, nce_of, rows_of_all, run, work_as
from torch import Tensor

from lava_model.config import LossConfig, LossForm
from lava_model.distributed import Ranks, _Gather, average_gradients, described_ranks, gather, ranks_from_environment
from lava_model.errors import ConfigError


def _free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three processes, and then two of them, wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    three, two = _free_ports(2)
    # A server that has imported the model once, and has no threads yet, forks the ranks.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lava_model.model", "lava_model.objective"])
    ranks = [context.Process(target=work_as, args=(rank, folder, {3: three, 2: two}), daemon=True) for rank in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=100)
    # Rank 1 dies as asked.
    assert [rank.exitcode for rank in ranks] == [0, 9, 0]
    return folder


def _found(folder: Path, world_size: int) -> list[dict[str, dict[str, Tensor]]]:
    return [torch.load(folder / f"{rank}_of_{world_size}.pt") for rank in range(world_size)]


def _reference(config: LossConfig, world_size: int, clusters: Tensor | None) -> dict[str, Tensor]:
    """The same loss of all rows at once, by other code."""
    model = build_model()
    inputs, batch = rows_of_all(world_size)
    log_scale = torch.tensor(config.temperature).log().neg().double().requires_grad_()
    block = torch.arange(len(batch)) // PER_RANK if config.negatives == "local" else torch.zeros(len(batch))
    result = dense_loss(embeddings_of(model(inputs)), batch, config, torch.exp(-log_scale), block, clusters)
    result["total"].backward()
    gradients = {"weight": model.weight.grad, "bias": model.bias.grad, "log_scale": log_scale.grad}
    return {name: value.detach() for name, value in result.items()} | gradients


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_have_the_loss_and_all_gradients_of_one_process(folder, world_size):
    of_ranks = [found["losses"] for found in _found(folder, world_size)]
    wrong = []
    for config in configs(world_size):
        name = name_of(config)
        first = of_ranks[0][name]
        reference = _reference(config, world_size, first.get("clusters"))
        assert first["total"] > 0 and first["weight"].abs().max() > 0, name
        for results in of_ranks:
            found = results[name]
            assert all(found[same].equal(first[same]) for same in {"total", "clusters"} & found.keys()), name
            for field, expected in reference.items():
                if not torch.allclose(found[field].double(), expected.double(), rtol=1e-10, atol=1e-10):
                    wrong.append((name, field, found[field], expected))
    assert not wrong


def test_ranks_have_the_loss_of_one_process_by_the_same_code(folder):
    """Global negatives: the objective itself with all rows, clusters found anew included, and no other code."""
    inputs, batch = rows_of_all(2)
    of_ranks = _found(folder, 2)[1]["losses"]
    for config in configs(2):
        if config.negatives == "global":
            alone = run(config, build_model(), inputs, batch, Ranks())
            assert alone.keys() == of_ranks[name_of(config)].keys()
            for field, expected in alone.items():
                torch.testing.assert_close(of_ranks[name_of(config)][field], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("world_size", [2, 3])
def test_each_collective_gives_what_it_says(folder, world_size):
    found = [each["collectives"] for each in _found(folder, world_size)]
    total = sum(range(1, world_size + 1))
    for rank, results in enumerate(found):
        columns = torch.tensor([[1.0, 2.0], [4.0, 5.0]], dtype=torch.float64)
        assert results["gathered"].equal(torch.cat([columns + 10 * other for other in range(world_size)]))
        # Rank r counted row n of all n * (1 + r) times: the own rows' gradient is the sum over ranks.
        expected = torch.tensor([[0.0, 1, 1], [0, 1, 1]]).mul(torch.tensor([[2.0 * rank], [2.0 * rank + 1]])) * total
        assert results["gradient"].equal(expected.double())
        assert results["hashes"].tolist() == [n for other in range(world_size) for n in (2**62 + 1 + other, -(2**63))]
        assert results["claims"].tolist() == [True, True, False]
        assert results["from_main"].tolist() == [7, 7]
    # The own gradient alone, then the mean over ranks of the sum of two, then one more.
    mean = (world_size + 1) / 2
    for rank, results in enumerate(found):
        assert results["sums"].tolist() == pytest.approx([rank + 1, 2 * mean, 2 * mean + mean])


@pytest.mark.parametrize("form", get_args(LossForm))
def test_nce_over_ranks_is_that_of_all_rows_or_of_blocks(folder, form):
    of_ranks = [each["collectives"] for each in _found(folder, 3)]
    alone = nce_of(slice(0, 3 * PER_RANK), form, "global", Ranks())
    for rank, results in enumerate(of_ranks):
        own = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
        found = results[f"nce-{form}-global"]
        torch.testing.assert_close(found["loss"], alone["loss"], rtol=1e-10, atol=1e-10)
        for side in ("queries", "keys"):
            # Where no DDP takes the mean, the gradient is W times the rank's share.
            torch.testing.assert_close(found[side], 3 * alone[side][own], rtol=1e-10, atol=1e-10)
    # Two of the three ranks have nothing to contrast within themselves: the loss is the first one's.
    first = nce_of(slice(0, PER_RANK), form, "local", Ranks())
    for rank, results in enumerate(of_ranks):
        found = results[f"nce-{form}-local"]
        torch.testing.assert_close(found["loss"], first["loss"], rtol=1e-10, atol=1e-10)
        expected = 3 * first["queries"] if rank == 0 else torch.zeros_like(first["queries"])
        torch.testing.assert_close(found["queries"], expected, rtol=1e-10, atol=1e-10)


def test_numbers_of_videos_travel_whole(folder):
    for results in _found(folder, 2):
        with_videos, without = results["collectives"]["close_ids"]
        assert with_videos.equal(without)


def test_a_rank_that_dies_ends_the_others_with_one_line_at_once(folder):
    seconds, message = (folder / "lost").read_text().split(" ", 1)
    assert float(seconds) < 60
    assert message.startswith("rank 0 of 2 lost another process of the run, which ended or did not answer for 90 s:")
    assert "\n" not in message


_STALLED = """
import os, sys, time
from lava_model.distributed import ranks_from_environment, wait_for_all
from lava_model.errors import LavaError
os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1]}
try:
    with ranks_from_environment("cpu", timeout_seconds=2) as ranks:
        wait_for_all(ranks)
        if not ranks.is_main:
            time.sleep(60)
        started = time.monotonic()
        wait_for_all(ranks)
except LavaError as error:
    sys.exit(f"{time.monotonic() - started:.1f} s: {error}")
"""


@pytest.mark.slow
def test_a_rank_that_does_not_answer_ends_the_others_in_the_time_given():
    command, port = [sys.executable, "-c", _STALLED], _free_ports(1)
    ranks = [
        subprocess.Popen([*command, *port], env={**os.environ, "RANK": rank}, text=True, stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    try:
        error = ranks[0].communicate(timeout=60)[1]
    finally:
        ranks[1].kill()
        ranks[1].communicate()
    seconds, message = error.splitlines()[-1].split(" s: ", 1)
    assert 1.5 < float(seconds) < 30
    assert message.startswith("rank 0 of 2 lost another process of the run, which ended or did not answer for 2 s")


@pytest.mark.slow
def test_a_rank_that_never_comes_is_one_line(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", _free_ports(1)[0])
    started = time.monotonic()
    program = "from lava_model.distributed import *\nwith ranks_from_environment('cpu', timeout_seconds=2): pass"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - started < 30
    assert "RankLostError: rank 0 of 2 lost another process" in ended.stderr.splitlines()[-1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")
def test_nccl_knows_the_collectives_of_gather(tmp_path):
    """A group of one: what can be seen of nccl with a single GPU."""
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        for dtype in (torch.float32, torch.int64):
            rows = torch.arange(6, device="cuda", dtype=dtype).reshape(3, 2).T
            assert _Gather.apply(rows, 1).equal(rows)
        leaf = torch.ones(2, 3, device="cuda", requires_grad=True)
        (_Gather.apply(leaf[:, 1:], 1) * 3).sum().backward()
        assert leaf.grad.tolist() == [[0, 3, 3], [0, 3, 3]]
    finally:
        torch.distributed.destroy_process_group()


def test_alone_there_is_no_group_and_nothing_to_do(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks_from_environment("cpu") as ranks:
        assert ranks == Ranks() and ranks.is_main and ranks.is_alone
        assert not torch.distributed.is_initialized()
        tensor = torch.ones(2)
        assert gather(tensor, ranks) is tensor
        average_gradients([torch.nn.Parameter(tensor)], ranks)


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two", "RANK": "0"}])
def test_half_an_environment_of_torchrun_is_one_line(monkeypatch, environment):
    monkeypatch.delenv("RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="start with torchrun, or unset WORLD_SIZE"):
        described_ranks()
