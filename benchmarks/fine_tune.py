"""Does `train --from` improve the shipped `hippocampus-20`, given five more labelled cases and five minutes?

    python benchmarks/fine_tune.py [DATA] [--seed 1] [--budget 5m] [--set KEY=VALUE] [--out FOLDER]

DATA is the hippocampus data set (default: ../shared/data/hippocampus). The seed draws, from its unlabelled
list, five cases whose masks are used and forty held-out cases that are used only for the table; the
other unlabelled cases stay unlabelled, and the validation cases are those of the index. `plan --from`
and `train --from` then run one after the other as a user would run them; the table scores masks as
`predict` writes them.

The bundle `hippocampus-20` has seen the scans of all unlabelled cases, also of the forty, but none of
their masks.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.dataset import DataSet
from c3s3_seg.inference import Predictor, open_predictor
from c3s3_seg.io import load, load_mask
from c3s3_seg.metrics.scoring import score

NAME, LABELLED, UNTOUCHED = "hippocampus-20", 5, 40


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data/hippocampus"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--budget", default="5m")
    parser.add_argument(
        "--out", type=Path, help="Keep everything here; what is here already is not made again."
    )
    parser.add_argument("--until", choices=("plan", "train"), help="Stop after this step.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work(options, (options.out or Path(temporary)).resolve())


def work(options: argparse.Namespace, folder: Path) -> None:
    source = DataSet.load(options.data)
    small, untouched = five_more(source, folder / "data", options.seed)
    plan, out = folder / "plan.toml", folder / "run"
    if not plan.exists():
        changes = [f"run.seed={options.seed}", *options.set]
        run("plan", small, "-o", plan, "--budget", options.budget, "--from", NAME, *words(changes))
    if options.until == "plan":
        return
    if not (out / "bundle").exists():
        started = time.perf_counter()
        run("train", plan, "-o", out, "--from", NAME)
        print(f"seed {options.seed}: training took {time.perf_counter() - started:.0f} s")
    if options.until == "train":
        return
    print((out / "bundle" / "README.md").read_text())
    sets = {"validation": source.splits.validation, "untouched": untouched}
    before, after = ModelBundle.find(NAME), ModelBundle.load(out / "bundle")
    table(source, sets, {"before": before, "after": after})


def words(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def run(*command: object) -> None:
    subprocess.run([sys.executable, "-m", "c3s3_seg", *map(str, command)], check=True)


def five_more(source: DataSet, folder: Path, seed: int) -> tuple[Path, tuple[str, ...]]:
    """Write a data set with five labelled cases of `source`; return its folder and the held-out cases."""
    pool = list(source.splits.unlabelled)
    random.Random(seed).shuffle(pool)
    labelled, untouched, rest = pool[:LABELLED], pool[LABELLED:][:UNTOUCHED], pool[LABELLED + UNTOUCHED :]
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("imagesTr", "labelsTr"):
        if not (folder / name).exists():
            (folder / name).symlink_to((source.folder / name).resolve())
    splits = replace(source.splits, labelled=tuple(labelled), unlabelled=tuple(sorted(rest)))
    replace(source, folder=folder, splits=splits).save()
    return folder, tuple(untouched)


def table(source: DataSet, sets: dict[str, tuple[str, ...]], bundles: dict[str, ModelBundle]) -> None:
    print("Dice / 95HD in mm, as `predict` answers with each network alone\n")
    print("| cases | network | label | before | after |\n|---|---|---|---|---|")
    for what, names in sets.items():
        for kind in ("vnet", "resvnet"):
            found = {when: scores(source, names, predictor(b, kind)) for when, b in bundles.items()}
            for label in (*source.labels, "mean"):
                cells = [f"{d:.4f} / {hd:.2f}" for d, hd in (found[when][label] for when in bundles)]
                print(f"| {len(names)} {what} | {kind} | {label} | {' | '.join(cells)} |", flush=True)


def predictor(bundle: ModelBundle, kind: str) -> Predictor:
    chosen = tuple(network for network in bundle.networks if network.architecture == kind)
    alone = ModelBundle(bundle.folder, replace(bundle.manifest, networks=chosen))
    return open_predictor(alone, backend="torch")


def scores(source: DataSet, names: tuple[str, ...], predict: Predictor) -> dict[str, tuple[float, float]]:
    """Return mean Dice and 95HD in mm by label, and their mean over labels as "mean"."""
    rows: dict[str, list[tuple[float, float]]] = {label: [] for label in source.labels}
    for name in names:
        scan = load(source.scan(name))
        truth, mask = load_mask(source.mask(name), grid=scan.geometry), predict(scan).mask
        for label, value in source.labels.items():
            a, b = (x.geometry.volume((x.array == value).astype("uint8")) for x in (mask, truth))
            one = score(a, b)
            rows[label].append((one.dice, one.hd95_mm))
    means = {label: (fmean(d for d, _ in r), fmean(hd for _, hd in r)) for label, r in rows.items()}
    means["mean"] = (fmean(d for d, _ in means.values()), fmean(hd for _, hd in means.values()))
    return means


if __name__ == "__main__":
    main()
