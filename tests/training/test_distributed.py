"""Two processes train together as one process would."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import command, forked

from c3s3_seg.errors import C3S3Error, ConfigError, MissingError
from c3s3_seg.training import checkpoint
from c3s3_seg.training.config import load_config, mixed_batches
from c3s3_seg.training.device import choose_device
from c3s3_seg.training.distributed import ProcessGroup, SharedBatchNorm, join

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 3
# Every voxel is an anchor and a negative, and there is no dropout: only the crops are random.
CHANGES = [
    f"run.iterations={STEPS}",
    "run.labelled_batch=2",
    "run.unlabelled_batch=2",
    "run.warm_batch=4",
    "run.threads=1",
    "run.seed=8",  # both networks predict both classes, which the contrast needs, and each wins once
    "optimiser.lr=0.001",  # rounding errors grow with each step, faster at a higher rate
    "c3s3.warm_up=1",
    "c3s3.anchors=1024",
    "c3s3.negatives=1024",
    "c3s3.contrast_weight=1.0",
    "c3s3.cp_weight=1.0",
    "networks.dropout=0.0",
    "task.patch=[16, 16, 4]",
    "task.strides=[[2, 2, 1], [2, 2, 1], [2, 2, 1], [1, 1, 2]]",
]
# As --standalone, but by address: resolving an unknown host name can take minutes.
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
TORCHRUN += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}


# One process mixes the same pairs of crops as each of two processes does.
MIXING = ["method=sdcl", "run.labelled_batch=4", "run.unlabelled_batch=4", "sdcl.pretraining=0.25"]
RUNS: dict[str, tuple[list[str], set[str]]] = {
    "c3s3": ([], {"cp", "cos", "iuc", "a_wins"}),
    "sdcl": (MIXING, {"mix_a", "mix_b", "corrected"}),
}


def words_of(config: Path, out: Path, more: Sequence[str]) -> list[str]:
    changes = [word for change in (*CHANGES, *more) for word in ("--set", change)]
    return ["train", str(config), "-o", str(out), *changes]


def train_by_torchrun(words: list[str]) -> str:
    """Run `torchrun -m c3s3_seg WORDS`; return its standard output."""
    command = [sys.executable, *TORCHRUN, "-m", "c3s3_seg", *words]
    environment = os.environ | LOOPBACK | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
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


def train_by_hand(words: list[str]) -> str:
    """Run the command in two connected processes, without the imports of torchrun; return their output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    shared |= LOOPBACK | {"OMP_NUM_THREADS": "1"}
    processes = [
        forked.Process(
            words,
            stdout=forked.PIPE,
            stderr=forked.STDOUT,
            imports=forked.TRAIN,
            environment=shared | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return "".join(said)


@pytest.fixture(scope="module")
def with_two(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Train both runs in two processes, one run by torchrun; return their folder and the output."""
    folder = tmp_path_factory.mktemp("two")
    c3s3, sdcl = (words_of(toy_config, folder / name, more) for name, (more, _) in RUNS.items())
    return folder, train_by_torchrun(c3s3) + train_by_hand(sdcl)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_have_the_losses_of_one(
    name: str, with_two: tuple[Path, str], toy_config: Path, tmp_path: Path
) -> None:
    more, terms = RUNS[name]
    folders = [tmp_path / "one", with_two[0] / name]
    answer = command.run(*words_of(toy_config, folders[0], more))
    assert answer.returncode == 0, answer.stderr
    one, two = map(scalars, folders)
    assert len(one["train/loss"]) == STEPS
    assert one.keys() == two.keys() >= {f"train/{term}" for term in terms}
    assert all(any(one[f"train/{term}"]) for term in terms)
    for tag, values in one.items():
        assert two[tag][:1] == pytest.approx(values[:1], rel=1e-5, abs=1e-6), tag
        assert two[tag] == pytest.approx(values, rel=1e-3, abs=1e-6), tag
    assert with_two[1].count("The bundle is") == len(RUNS)  # only the first process prints
    kept = [checkpoint.read(folder) for folder in folders]
    assert kept[1].iteration == STEPS
    assert kept[0].tensors.keys() == kept[1].tensors.keys()
    names = [{path.name for path in (folder / "bundle").iterdir()} for folder in folders]
    assert names[0] == names[1]


def test_every_crop_is_drawn_once() -> None:
    shares = [list(ProcessGroup(rank, 3).share(6)) for rank in range(3)]
    assert [number for share in shares for number in share] == list(range(6))
    assert list(ProcessGroup().share(5)) == list(range(5))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "first"}, "RANK = 'first', wanted a whole number. Start several processes with torchrun"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE = '-2', wanted a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "WORLD_SIZE = 2 and RANK = 2"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE = 0 and RANK = 0"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE = 2, and no MASTER_ADDR, MASTER_PORT"),
    ],
)
def test_an_environment_that_is_not_torchruns(
    variables: dict[str, str], message: str, toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = load_config(toy_config, ["run.unlabelled_batch=2"])
    with pytest.raises(ConfigError, match=message), join(config):
        pass


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [
        (0, MissingError, "run.device = 'cuda', but torch finds no CUDA device"),
        (1, ConfigError, "LOCAL_RANK = 2, and this process finds 1 GPU. Start no more processes"),
        (2, ConfigError, "LOCAL_RANK = 2, and this process finds 2 GPUs"),
    ],
)
def test_a_process_without_a_gpu_of_its_own_is_refused(
    count: int, error: type[C3S3Error], message: str, toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be a defect of the program: torch chose the GPU before anything was checked."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "2", **place}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    changes = ["run.device=cuda", "run.labelled_batch=3", "run.unlabelled_batch=3", "run.warm_batch=3"]
    config = load_config(toy_config, changes)
    with pytest.raises(error, match=message), join(config):
        pass
    with pytest.raises(error, match=message):  # in a run of one process, too
        choose_device(config, ProcessGroup(local_rank=2))


def test_a_batch_that_cannot_be_shared_is_refused(toy_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="unlabelled_batch = 1: wanted a multiple of the 2 processes"),
        join(load_config(toy_config)),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method=bcp"], r"labelled_batch = 2: wanted a multiple of 4, twice .* 'bcp' mixes pairs"),
        ([*MIXING, "run.warm_batch=2"], r"warm_batch = 2: .*'sdcl'"),
        (["method=mcf", "c3s3.mix_weight=1"], r"labelled_batch = 2: .*c3s3\.mix_weight mixes pairs"),
    ],
)
def test_no_process_mixes_a_crop_with_itself(
    changes: list[str], message: str, toy_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = load_config(toy_config, ["run.unlabelled_batch=2", *changes])
    with pytest.raises(ConfigError, match=message), join(config):
        pass


def test_only_batches_that_are_mixed_want_pairs(toy_config: Path) -> None:
    both = {"labelled_batch", "unlabelled_batch"}
    for changes, keys in (
        (["method=bcp", "bcp.pretraining=0.5"], both | {"warm_batch"}),
        (["method=bcp", "bcp.pretraining=0"], both),
        (["c3s3.mix_weight=1"], both),
        (["method=uamt", "c3s3.mix_weight=1"], set()),
        ([], set()),
    ):
        assert mixed_batches(load_config(toy_config, changes)).keys() == keys


def test_batch_norm_on_a_cpu_is_exact_far_from_0() -> None:
    """Of a mean of 1000 standard deviations, the variance had been off by a third."""
    x = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1000
    wanted = torch.nn.BatchNorm3d(3).double()
    shared = SharedBatchNorm(3)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        found = shared(x.float())
    finally:
        dist.destroy_process_group()
    # The inputs in single precision have an error of 3e-5, in units of their standard deviation.
    torch.testing.assert_close(found.double(), wanted(x), rtol=0, atol=2e-4)
    torch.testing.assert_close(shared.running_var.double(), wanted.running_var, rtol=1e-4, atol=0)
