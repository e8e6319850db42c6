"""Find the iterations with which every entry of a study takes the same processor time.

    python benchmarks/equal_time.py STUDY --minutes 45 [--set KEY=VALUE ...] [--steps 4]

Real steps on real crops, in one thread, with the precision of the study. Each entry runs in a process of its
own, one after the other: the mean of `--steps` steps of its warm-up or pre-training, if it has any, and of as
many steps after it, each after one step that is not counted. Processor time depends little on other programs.
The share of the warm-up or pre-training stays as in the study. The coefficients of CauSSL are updated once in
each step that is measured, which is their average.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

AVERAGE = {"caussl": ["caussl.coefficient_start=0", "caussl.every=1e-9"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    from c3s3_seg.training.study import load_study

    study, _ = load_study(options.study, options.set)
    print(f"{options.minutes:g} minutes of one processor\n")
    print("| entry | s a step at first | s then | iterations | first iterations |\n|---|---|---|---|---|")
    for entry in study.entries:
        command = [sys.executable, *sys.argv, "--one", entry.name]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(answer.stdout.splitlines()[-1])
        at_first = f"{found['first']:.3f}" if found["first"] else ""
        row = (entry.name, at_first, f"{found['own']:.3f}", found["iterations"], found["warm"])
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def measure(options: argparse.Namespace) -> dict[str, float]:
    from c3s3_seg.system.process import keep_pages
    from c3s3_seg.training.config import warm_up
    from c3s3_seg.training.data import Sampler
    from c3s3_seg.training.folds import read_splits
    from c3s3_seg.training.run import Run
    from c3s3_seg.training.study import load_study
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

    def mean_s(first: int) -> float:
        run.iteration = first
        for number in range(options.steps + 1):
            if number == 1:
                started = time.process_time()
            run.step(sampler.batch(run.iteration, run.method.views(run.iteration)))
        return (time.process_time() - started) / options.steps

    warm, total = warm_up(config), config.run.iterations
    first = mean_s(0) if warm else 0.0
    own = mean_s(max(warm, total // 2))
    share = warm / total
    iterations = int(60 * options.minutes / (share * first + (1 - share) * own) / 5) * 5
    return {"first": first, "own": own, "iterations": iterations, "warm": int(share * iterations)}


if __name__ == "__main__":
    main()
