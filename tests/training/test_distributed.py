"""Two processes that train as one."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import command

from c3s3_seg.errors import ConfigError
from c3s3_seg.training import checkpoint
from c3s3_seg.training.config import load_config
from c3s3_seg.training.distributed import ProcessGroup, join

pytestmark = pytest.mark.slow

STEPS = 4
# Every voxel is an anchor and a negative, and nothing is dropped: no chance is left but the crops'.
CHANGES = [
    f"run.iterations={STEPS}",
    "run.labelled_batch=2",
    "run.unlabelled_batch=2",
    "run.warm_batch=4",
    "run.threads=1",
    "optimiser.lr=0.001",  # rounding grows with every step, and the faster the larger it is
    "c3s3.warm_up=1",
    "c3s3.anchors=4096",
    "c3s3.negatives=4096",
    "c3s3.contrast_weight=1.0",
    "c3s3.cp_weight=1.0",
    "networks.dropout=0.0",
    "task.patch=[16, 16, 16]",
]
# As --standalone, but by address: asking for the name of a machine can take minutes where nobody knows it.
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
TORCHRUN += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}


# Pairs of crops that one process mixes are those that each of two processes mixes.
MIXING = ["method=sdcl", "run.labelled_batch=4", "run.unlabelled_batch=4", "sdcl.pretraining=0.25"]


def words_of(config: Path, out: Path, more: Sequence[str]) -> list[str]:
    changes = [word for change in (*CHANGES, *more) for word in ("--set", change)]
    return ["train", str(config), "-o", str(out), *changes]


def train_with_two(config: Path, out: Path, more: Sequence[str]) -> str:
    words = [sys.executable, *TORCHRUN, "-m", "c3s3_seg", *words_of(config, out, more)]
    environment = os.environ | LOOPBACK | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        said, complained = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends its processes
        said, complained = process.communicate()
    assert process.returncode == 0, said + complained
    return said


def scalars(run: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "events")).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("train/")]
    return {tag: [event.value for event in events.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize(
    ("more", "terms"), [([], {"cp", "cos", "iuc", "a_wins"}), (MIXING, {"mix_a", "mix_b", "corrected"})]
)
def test_two_processes_have_the_losses_of_one(
    more: list[str], terms: set[str], toy_config: Path, tmp_path: Path
) -> None:
    answer = command.run(*words_of(toy_config, tmp_path / "one", more))
    assert answer.returncode == 0, answer.stderr
    said = train_with_two(toy_config, tmp_path / "two", more)
    one, two = scalars(tmp_path / "one"), scalars(tmp_path / "two")
    assert len(one["train/loss"]) == STEPS
    assert one.keys() == two.keys() >= {f"train/{term}" for term in terms}
    for tag, values in one.items():
        assert two[tag][:1] == pytest.approx(values[:1], rel=1e-5, abs=1e-6), tag
        assert two[tag] == pytest.approx(values, rel=2e-3, abs=1e-6), tag
    assert said.count("The bundle is") == 1  # only the first process talks
    assert checkpoint.read(tmp_path / "two").iteration == STEPS
    assert (
        checkpoint.read(tmp_path / "one").tensors.keys() == checkpoint.read(tmp_path / "two").tensors.keys()
    )
    names = [{p.name for p in (tmp_path / x / "bundle").iterdir()} for x in ("one", "two")]
    assert names[0] == names[1]


def test_every_crop_is_drawn_once() -> None:
    shares = [list(ProcessGroup(rank, 3).share(6)) for rank in range(3)]
    assert [number for share in shares for number in share] == list(range(6))
    assert list(ProcessGroup().share(5)) == list(range(5))


def test_a_batch_that_cannot_be_shared_is_refused(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="unlabelled_batch = 1: wanted a multiple of the 2 processes"),
        join(load_config(toy_config)),
    ):
        pass
