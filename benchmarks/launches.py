"""Kernel launches of one training step, counted with torch's profiler on a CPU; no GPU is needed.

    python benchmarks/launches.py [--revision HEAD~1] [--method c3s3] [--size 32 32 32] [--set KEY=VALUE ...]

On a GPU every operation that is neither a view nor an allocation launches at least one kernel, and for
small crops the launches take most of the time. The script counts operations (`aten::...`) for which torch
has one kernel. The optimiser runs in its `foreach` form, as on a GPU, and a `_foreach` operation counts
once, although it launches a kernel for every few dozen tensors. So a figure is a lower bound for a GPU;
no time is measured. `waits` are operations after which Python waits for the GPU: numbers that are read,
and `nonzero`.

With `--revision` the same step of another commit is counted too; the package of that commit is unpacked
in a temporary folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAITS = {"aten::_local_scalar_dense", "aten::nonzero"}
WHOLE = {"aten::convolution_backward"}  # counted once, whatever operations it contains
# Views, allocations and queries of a tensor's form launch no kernel; the random numbers of the contrast are
# drawn on the CPU even when training runs on a GPU.
NAMES = """
view as_strided as_strided_ slice select expand permute transpose t mT unsqueeze squeeze detach detach_ alias
_reshape_alias _unsafe_view split split_with_sizes unbind unfold unflatten flatten movedim chunk narrow
view_as expand_as type_as broadcast_tensors to contiguous reshape clone item is_nonzero empty empty_like
empty_strided new_empty new_empty_strided resize_ resize_as_ set_ ones zeros result_type lift_fresh
numpy_T resolve_conj resolve_neg real random_ randperm randint index_put_
"""
FREE = {f"aten::{name}" for name in NAMES.split()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--revision", help="count the step of this commit too")
    parser.add_argument("--method", default="c3s3")
    parser.add_argument("--size", nargs=3, type=int, default=[32, 32, 32])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--top", type=int, default=0, help="also list so many operations")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(count(options)))
        return
    print("| code | launches | of them waits | forward and loss | backward | optimiser and averages |")
    print("|---|---|---|---|---|---|")
    found = {}
    if options.revision:
        with tempfile.TemporaryDirectory() as folder:
            unpack(options.revision, Path(folder))
            found[options.revision] = alone(Path(folder))
            row(options.revision, found[options.revision])
    found["here"] = alone(ROOT)
    row("here", found["here"])
    for name, counted in found.items() if options.top else ():
        listed = Counter(counted["operations"]).most_common(options.top)
        print(f"\n{name}: " + ", ".join(f"{number} {operation}" for operation, number in listed))


def row(name: str, found: dict) -> None:  # type: ignore[type-arg]
    parts = (found["forward"], found["backward"], found["update"])
    print(f"| {name} | {sum(parts)} | {found['waits']} | {' | '.join(map(str, parts))} |", flush=True)


def unpack(revision: str, folder: Path) -> None:
    """Unpack the package of a commit, without the weights, in a folder."""
    wanted = ["c3s3_seg", ":(exclude)c3s3_seg/weights"]
    packed = subprocess.run(
        ["git", "archive", revision, "--", *wanted], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)


def alone(package: Path) -> dict:  # type: ignore[type-arg]
    """Count in a process that imports the package from this folder; return its result."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, __file__, *sys.argv[1:], "--one"]
    answer = subprocess.run(command, env=environment, cwd=package, check=True, stdout=subprocess.PIPE)
    found: dict = json.loads(answer.stdout.splitlines()[-1])  # type: ignore[type-arg]
    return found


def count(options: argparse.Namespace) -> dict:  # type: ignore[type-arg]
    """Return the counts of the second step, as the first step creates the momentum."""
    import torch

    from c3s3_seg.training.config import load_config
    from c3s3_seg.training.run import Run

    x, y, z = options.size
    changes = [f"method={options.method}", f"task.patch=[{x}, {y}, {z}]", "data.folder=none"]
    changes += ["c3s3.warm_up=0", "bcp.pretraining=0", "sdcl.pretraining=0", "networks.ship=[]"]
    changes += ["run.precision=float32", *options.changes]
    run = Run(load_config(Path("left-atrium"), changes), Path("none"))
    for optimiser in run.optimisers.values():
        for group in optimiser.param_groups:
            group["foreach"] = True
    torch.manual_seed(0)
    run.step(batch(run, options.size))
    given = batch(run, options.size)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run.step(given)
    found: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    begun = False
    for event in sorted(profiler.events(), key=lambda e: e.time_range.start):
        if event.cpu_parent is not None:
            continue
        begun = begun or "autograd::engine" in event.name
        ops = list(leaves(event))
        found.update(ops)
        backward = "autograd::engine" in event.name or "AccumulateGrad" in event.name
        parts["backward" if backward else "update" if begun else "forward"] += len(ops)
    waits = sum(number for name, number in found.items() if name in WAITS)
    return {"operations": found, "waits": waits, **{k: parts[k] for k in ("forward", "backward", "update")}}


def leaves(event):  # type: ignore[no-untyped-def]
    """Yield the operations at and below a profiler event that launch a kernel."""
    if event.name.startswith("aten::_foreach") or event.name in WHOLE or has_kernel(event.name):
        yield event.name
        return
    inner = [name for child in event.cpu_children for name in leaves(child)]
    if inner:
        yield from inner
    elif event.name.startswith("aten::") and event.name not in FREE:
        yield event.name


@cache
def has_kernel(name: str) -> bool:
    """Return whether torch has one kernel for an operation; others (`linear`, `stack`) are composites."""
    import torch

    if not name.startswith("aten::") or name in FREE:
        return False
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"), None)
    overloads = [] if packet is None else [f"{name}.{o}".removesuffix(".default") for o in packet.overloads()]
    known = set(torch._C._dispatch_get_all_op_names())
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(o, "CPU") for o in overloads if o in known)


def batch(run, size):  # type: ignore[no-untyped-def]
    """Return a batch of noise with a box of foreground, about which the networks disagree."""
    import torch

    from c3s3_seg.training.data import EMPTY, Batch, draw_box

    views = run.method.views(run.iteration)
    shape = (views.labelled + views.unlabelled, 1, *size)
    inside = torch.zeros(views.labelled, 1, *size)
    inside[..., : size[0] // 2, :, :] = 1
    box = draw_box(tuple(size), views.box, torch.Generator()) if views.box else EMPTY
    images = tuple(torch.randn(shape) for _ in range(views.count))
    return Batch(images, torch.cat([1 - inside, inside], dim=1), tuple(range(views.labelled)), (), box)


if __name__ == "__main__":
    main()
