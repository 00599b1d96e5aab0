"""KineticsAVT in the loops of Lightning and accelerate, over two processes. Runs where these are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from k700_text import collate
from tests.k700_text import foreign_ranks
from tests.k700_text.media_files import clip_id_of, make_clip, write_manifest

NUM_CLIPS = 8


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["lightning", "accelerate"])
def test_epochs_over_two_processes_differ_and_share_the_clips_out(tmp_path: Path, loop: str) -> None:
    pytest.importorskip(loop)
    for number in range(NUM_CLIPS):
        make_clip(tmp_path / "clips" / f"{clip_id_of(number)}.mp4", 2.2)
    clip_ids = {clip_id_of(number) for number in range(NUM_CLIPS)}
    manifest = write_manifest(tmp_path / "m.parquet", [{"clip_id": clip_id} for clip_id in sorted(clip_ids)])
    ranks = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    program = ["-m", "tests.k700_text.foreign_ranks", loop, manifest, tmp_path / "clips", tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*ranks, *program], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for epoch in range(foreign_ranks.NUM_EPOCHS):
        assert len(seen[0][epoch]) == len(seen[1][epoch]) == NUM_CLIPS // 2
        assert seen[0][epoch].keys() | seen[1][epoch].keys() == clip_ids
    *drawn, last = ({**seen[0][epoch], **seen[1][epoch]} for epoch in range(foreign_ranks.NUM_EPOCHS))
    assert all(drawn[0][clip_id] != drawn[1][clip_id] for clip_id in clip_ids)
    dataset = foreign_ranks.open_dataset(manifest, tmp_path / "clips")
    samples = [dataset[(foreign_ranks.NUM_EPOCHS - 1, index)] for index in range(NUM_CLIPS)]
    assert last == foreign_ranks.fingerprints(collate(samples))
