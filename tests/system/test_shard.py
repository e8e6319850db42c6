import pytest

from c3s3_seg.errors import InputError
from c3s3_seg.system.shard import Shard, parse_shard


def test_shards_are_everything_once() -> None:
    cases = list(range(11))
    shares = [Shard(n, 4).of(cases) for n in (1, 2, 3, 4)]
    assert sorted(case for share in shares for case in share) == cases
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert Shard(3, 3).of([1]) == []


SLURM = {"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "5"}


@pytest.mark.parametrize(
    ("text", "environment", "wanted"),
    [
        ("2/8", {}, Shard(2, 8)),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_STEP": "2"}, Shard(3, 5)),
        ("auto", SLURM, Shard(5, 5)),
        ("auto/4", {"JOB_COMPLETION_INDEX": "0"}, Shard(1, 4)),
        ("auto/5", SLURM, Shard(5, 5)),
        ("auto/8", {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "0"}, Shard(3, 8)),
    ],
)
def test_what_schedulers_say(text: str, environment: dict[str, str], wanted: Shard) -> None:
    assert parse_shard(text, environment) == wanted


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("0/4", {}),
        ("5/4", {}),
        ("2", {}),
        ("-1/4", {}),
        ("auto", {}),
        ("auto/4", {}),
        ("auto", {"JOB_COMPLETION_INDEX": "0"}),
        ("auto/4", {"JOB_COMPLETION_INDEX": "4"}),
        ("auto/x", {"JOB_COMPLETION_INDEX": "0"}),
        # A failed task that is submitted again alone: it used to be taken for the first share.
        (
            "auto/8",
            {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_COUNT": "1"},
        ),
    ],
)
def test_what_is_no_shard(text: str, environment: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"--shard"):
        parse_shard(text, environment)
