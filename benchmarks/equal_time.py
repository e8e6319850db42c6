"""Find the iterations with which every entry of a study takes the same processor time.

    python benchmarks/equal_time.py STUDY --minutes 45 [--set KEY=VALUE ...] [--steps 2] [--rounds 3]

Real steps on real crops, in one thread, with the precision of the study. Each entry runs in a process of its
own, one after the other, and all of them again in each round, because the clock of a processor drifts; the
table has the medians of the rounds. A process measures the mean of `--steps` steps of the warm-up or
pre-training, if there is any, and of as many steps after it, each after one step that is not counted.
The share of the warm-up or pre-training stays as in the study. The coefficients of CauSSL are updated once in
each step that is measured, which is their average.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

AVERAGE = {"caussl": ["caussl.coefficient_start=0", "caussl.every=1e-9"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    for row in table(options):
        print("| " + " | ".join(row) + " |", flush=True)


def table(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    from c3s3_seg.training.config import warm_up
    from c3s3_seg.training.studies.plan import load_study

    study, plans = load_study(options.study, options.set)
    names = [entry.name for entry in study.entries]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            command = [sys.executable, *sys.argv, "--one", name]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            first, own = json.loads(answer.stdout.splitlines()[-1])
            seconds[name].append((first, own))
    yield ("entry", "s a step at first", "s then", "all rounds", "iterations", "first iterations")
    yield ("---",) * 6
    for name in names:
        config = next(plan.config for plan in plans if plan.entry == name)
        share = warm_up(config) / config.run.iterations
        first, own = (median(values) for values in zip(*seconds[name], strict=True))
        iterations = int(60 * options.minutes / (share * first + (1 - share) * own) / 5) * 5
        rounds = ", ".join(f"{each:.2f}" for _, each in seconds[name])
        at_first = f"{first:.3f}" if share else ""
        yield (name, at_first, f"{own:.3f}", rounds, str(iterations), str(int(share * iterations)))


def measure(options: argparse.Namespace) -> tuple[float, float]:
    """Return the processor seconds of a step of one entry: in its first phase (0: it has none), after it."""
    from c3s3_seg.system.process import keep_pages
    from c3s3_seg.training.config import warm_up
    from c3s3_seg.training.data import Sampler
    from c3s3_seg.training.folds import read_splits
    from c3s3_seg.training.run import Run
    from c3s3_seg.training.studies.plan import load_study
    from c3s3_seg.training.train import deterministic

    _, plans = load_study(options.study, options.set)
    method = next(plan.config.method for plan in plans if plan.entry == options.one)
    _, plans = load_study(options.study, [*options.set, *AVERAGE.get(method, [])])
    config = next(plan.config for plan in plans if plan.entry == options.one)
    keep_pages()
    deterministic(config)
    data, splits = read_splits(config.data)
    run = Run(config, Path("none"))
    sampler = Sampler.of(config, data, splits)

    steps: int = options.steps

    def mean_s(first: int) -> float:
        run.iteration = first
        for number in range(steps + 1):
            if number == 1:
                started = time.process_time()
            run.step(sampler.batch(run.iteration, run.method.views(run.iteration)))
        return (time.process_time() - started) / steps

    warm, total = warm_up(config), config.run.iterations
    return mean_s(0) if warm else 0.0, mean_s(max(warm, total // 2))


if __name__ == "__main__":
    main()
