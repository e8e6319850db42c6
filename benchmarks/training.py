"""One training step compared: this package, a plain transcription of the equations, supervised, MCF.

    python benchmarks/training.py [--methods] [--size 64 64 48] [--steps 5] [--only NAME] [--device cuda]

With --methods: every method of `c3s3_seg.training.methods` in float32, compared with supervised training.

Every contender runs in a process of its own, one after the other: seconds are medians over the steps after
the first; memory is the largest resident size of that process, or on a GPU the most that torch had allocated.
The crops are random numbers, for which the arithmetic is the same. BCP and SDCL are measured after their
pre-training, CauSSL after its first round of updates of the coefficients, with one update in each step, which
is its average from then on.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONTENDERS = {
    "plain transcription, float32": ("plain", "float32"),
    "C3S3, float32": ("c3s3", "float32"),
    "C3S3, float32, run.activation_checkpointing": ("c3s3", "float32+recompute"),
    "C3S3, bfloat16": ("c3s3", "bfloat16"),
    "C3S3, bfloat16, run.activation_checkpointing": ("c3s3", "bfloat16+recompute"),
    "MCF, float32": ("mcf", "float32"),
    "UA-MT, float32": ("uamt", "float32"),
    "supervised VNet, float32": ("supervised", "float32"),
}
METHODS = ["supervised", "uamt", "dtc", "sassnet", "ssnet", "caml", "bcp"]
METHODS += ["mcf", "caussl", "tracoco", "sdcl", "c3s3"]  # two networks
# Settings so that every method is measured at its own step, not at its warm-up.
OWN_STEP = ["c3s3.warm_up=0", "bcp.pretraining=0", "sdcl.pretraining=0"]
OWN_STEP += ["caussl.coefficient_start=0", "caussl.every=1e-9"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", nargs=3, type=int, default=[64, 64, 48])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--methods", action="store_true")
    parser.add_argument("--only", choices=[*CONTENDERS, *METHODS])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options)))
        return
    print(f"crops of {options.size}, 1 labelled + 1 unlabelled (supervised: 2 labelled), 16 filters\n")
    contenders = {name: (name, "float32") for name in METHODS} if options.methods else CONTENDERS
    ratio = "times supervised" if options.methods else "times faster"
    print(f"| step | s | peak MB | {ratio} | memory |\n|---|---|---|---|---|")
    first: dict[str, float] | None = None
    for name, contender in contenders.items():
        if options.only not in (None, name):
            continue
        found = alone(contender, options)
        if isinstance(found, int):
            print(f"| {name} | failed ({found}) | | | |")
            continue
        first = first or found
        slower = found["seconds"] / first["seconds"]
        row = (name, f"{found['seconds']:.3f}", f"{found['mb']:.0f}")
        row += (f"{slower if options.methods else 1 / slower:.2f}", f"{found['mb'] / first['mb']:.2f}")
        print(f"| {' | '.join(row)} |", flush=True)


def alone(contender: tuple[str, str], options: argparse.Namespace) -> dict[str, float] | int:
    """Measure in a process of its own; return the figures, or the exit code if the process failed."""
    command = [sys.executable, __file__, "--size", *map(str, options.size), "--steps", str(options.steps)]
    command += ["--device", options.device, "--one", *contender]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        return answer.returncode
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def measure(method: str, precision: str, options: argparse.Namespace) -> dict[str, float]:
    import torch

    from c3s3_seg.system.process import keep_pages
    from c3s3_seg.training.config import load_config
    from c3s3_seg.training.run import Run

    size = tuple(options.size)
    changes = [f"task.patch=[{size[0]}, {size[1]}, {size[2]}]", "data.folder=none", "networks.ship=[]"]
    changes += OWN_STEP
    precision, _, activation_checkpointing = precision.partition("+")
    changes += [
        f"run.activation_checkpointing={'true' if activation_checkpointing else 'false'}",
        f"run.device={options.device}",
    ]
    changes += [f"run.precision={precision}", f"method={'c3s3' if method == 'plain' else method}"]
    if method == "supervised":  # as many crops as the methods that have an unlabelled one too
        changes.append("run.labelled_batch=2")
    if method != "plain":
        keep_pages()
    run = Run(load_config(Path("left-atrium"), changes), Path("none"))
    if method == "plain":
        run.method.to(memory_format=torch.contiguous_format)
    step = Plain(run).step if method == "plain" else run.step
    seconds = []
    for number in range(options.steps + 1):
        batch = random_batch(run.method.views(number), size, run.device)
        started = time.perf_counter()
        step(batch)
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"seconds": statistics.median(seconds[1:]), "mb": peak_mb(options.device)}


def random_batch(views, size, device):  # type: ignore[no-untyped-def]
    import torch

    from c3s3_seg.training.data import EMPTY, Batch, draw_box
    from c3s3_seg.training.distances import signed_distance

    crops = views.labelled + views.unlabelled
    shape, count = (crops, 1, *size), 2 if views.shift else views.count
    images = tuple(torch.randn(shape, device=device) for _ in range(count))
    inside = (torch.rand(views.labelled, 1, *size, device=device) < 0.2).float()
    offset = tuple(int(views.shift / 2 * side) for side in size)
    return Batch(
        images,
        torch.cat([1 - inside, inside], dim=1),
        tuple(range(views.labelled)),
        (offset,) * crops if views.shift else (),
        draw_box(size, views.box, torch.Generator()).to(device) if views.box else EMPTY,
        EMPTY if views.distances == "none" else signed_distance(inside),
    )


def peak_mb(device: str) -> float:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Plain:
    """The equations literally: four forward passes, 64-channel maps at full size, a backward pass per net."""

    def __init__(self, run) -> None:  # type: ignore[no-untyped-def]
        self.run, self.method, self.config = run, run.method, run.config.c3s3
        self.method.train()

    def step(self, batch) -> None:  # type: ignore[no-untyped-def]
        import torch

        from c3s3_seg.training.losses import cosine_distance, cross_pseudo, ramp, seg_terms

        n, config = batch.labelled, self.config
        a, b = ([self._forward(net, head, x) for x in batch.views] for net, head in self._nets())
        seg_a, seg_b = (seg_terms([out[0][:n] for out in outs], batch.target) for outs in (a, b))
        a_wins = bool(seg_a.weighted(config.alpha) <= seg_b.weighted(config.alpha))
        primary, loser = (a, b) if a_wins else (b, a)
        l_cp = cross_pseudo([o[1][n:] for o in loser], [o[1][n:] for o in primary], config.sharpening)
        l_cos = cosine_distance(a[0][1], b[1][1]) + cosine_distance(b[0][1], a[1][1])
        l_iuc = torch.stack([self._iuc(x, y, n) for x in a for y in b]).mean()
        shared = l_cos + 0.1 * ramp(0.5) * l_iuc
        loss_a, loss_b = seg_a.loss + shared, seg_b.loss + shared
        if a_wins:
            loss_b = loss_b + 0.1 * ramp(0.5) * l_cp
        else:
            loss_a = loss_a + 0.1 * ramp(0.5) * l_cp
        (optimiser,) = self.run.optimisers.values()
        optimiser.zero_grad(set_to_none=True)
        loss_a.backward(retain_graph=True)
        loss_b.backward()
        optimiser.step()

    def _nets(self):  # type: ignore[no-untyped-def]
        return (self.method.a, self.method.project_a), (self.method.b, self.method.project_b)

    def _forward(self, net, head, x):  # type: ignore[no-untyped-def]
        import torch.nn.functional as F

        features = net.features(x)
        logits = net.output(features)
        z = F.normalize(head(features.movedim(1, -1)), dim=-1, eps=1e-6)
        return logits, logits.softmax(dim=1), z

    def _iuc(self, x, y, n):  # type: ignore[no-untyped-def]
        """Return both contrasts of one pair, from maps of 64 channels at full size."""
        import torch

        (logits_x, _, z_x), (logits_y, _, z_y) = x, y
        in_x, in_y = (o[n:].argmax(dim=1).flatten() == 1 for o in (logits_x, logits_y))
        z_x, z_y = (z[n:].flatten(0, 3) for z in (z_x, z_y))
        both, either = in_x & in_y, in_x | in_y
        total = z_x.new_zeros(())
        for anchors, negatives in ((both, ~both), (~either, either)):
            i, j = (
                self._some(m, k)
                for m, k in ((anchors, self.config.anchors), (negatives, self.config.negatives))
            )
            if len(i) and len(j):
                positive = (z_x * z_y).sum(dim=1)[i, None]
                t = torch.cat([positive, z_x[i] @ z_y[j].T], dim=1) / self.config.temperature
                total = total + (t.logsumexp(dim=1) - t[:, 0]).mean()
        return total

    @staticmethod
    def _some(mask, count):  # type: ignore[no-untyped-def]
        import torch

        places = mask.nonzero()[:, 0]
        if len(places) <= count:
            return places
        return places[torch.randperm(len(places), device=mask.device)[:count]]


if __name__ == "__main__":
    main()
