"""The loop: batch, step, average, validate, checkpoint; in the order in which it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError, MissingError
from c3s3_seg.schema import dump
from c3s3_seg.training import checkpoint
from c3s3_seg.training.config import OptimiserConfig, TrainConfig
from c3s3_seg.training.data import (
    Batch,
    Sampler,
    Splits,
    ValidationCase,
    read_case,
    read_splits,
    read_validation,
)
from c3s3_seg.training.ema import Ema
from c3s3_seg.training.memory import keep_pages
from c3s3_seg.training.methods import Method, build_method
from c3s3_seg.training.result import write_bundle
from c3s3_seg.training.validation import Validation, validate

# What a resumed run may do otherwise than it began: its length and its reports. Noted in the history.
MAY_CHANGE = {
    "run.iterations",
    "c3s3.warm_start",
    "run.validate_every",
    "run.checkpoint_every",
    "run.threads",
    "data.note",
}


class Listener(Protocol):
    """Who is told how the run goes."""

    def began(self, iteration: int, total: int) -> None:
        """Before the first iteration of this process."""

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        """After each iteration."""

    def validated(self, iteration: int, results: list[Validation]) -> None:
        """After each validation."""


class Run:
    """Everything that changes while training, and its checkpoint."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        torch.manual_seed(config.run.seed)
        self.config, self.folder = config, folder
        self.device = _device(config)
        self.method: Method = build_method(config).to(self.device)
        self.method.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.optimisers = {name: _sgd(p, config.optimiser) for name, p in self.method.optimised().items()}
        self.emas = {
            name: Ema(net, config.optimiser.ema) for name, (net, _) in self.method.candidates().items()
        }
        self.iteration = 0
        self.history: list[dict[str, Any]] = []

    def step(self, batch: Batch) -> dict[str, float]:
        """One iteration; the numbers for the log."""
        progress = self.iteration / self.config.run.iterations
        lr = self.config.optimiser.lr * schedule(self.config.optimiser, progress)
        terms: dict[str, float] = {"lr": lr}
        self.method.train()
        # Dropout draws from the global generator: with this, an iteration depends on its number alone.
        torch.manual_seed(self.config.run.seed * 1_000_003 + self.iteration)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.run.precision == "bfloat16"
        ):
            phases = self.method.step(_to(batch, self.device), self.iteration)
            for phase in phases:
                self._descend(phase.loss, phase.optimisers, lr)
                terms |= {"loss": float(phase.loss.detach()), **phase.terms}
        for name, (net, _) in self.method.candidates().items():
            self.emas[name].update(net, self.iteration)
        self.iteration += 1
        return terms

    def _descend(self, loss: Tensor, names: tuple[str, ...], lr: float) -> None:
        if not math.isfinite(float(loss.detach())):
            raise InputError(
                f"the loss is {float(loss.detach())} at iteration {self.iteration}",
                where=self.folder,
                todo="Lower optimiser.lr, or use run.precision = 'float32'",
            )
        for name in names:
            self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for name in names:
            for group in self.optimisers[name].param_groups:
                group["lr"] = lr
            self.optimisers[name].step()

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        for name, ema in self.emas.items():
            tensors |= {f"ema.{name}.{k}": v for k, v in ema.net.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            tensors |= {f"optim.{name}.{k}": v for k, v in checkpoint.optimiser_tensors(optimiser).items()}
        state = checkpoint.State(self.iteration, dump(self.config), tensors, self.history)
        checkpoint.write(self.folder, state)

    def restore(self) -> None:
        """Go back to the newest checkpoint.

        Raises
        ------
        InputError
            If it belongs to another configuration.
        """
        state = checkpoint.read(self.folder)
        changed = _differences(state.config, dump(self.config))
        if changed.keys() - MAY_CHANGE:
            keys = ", ".join(sorted(changed.keys() - MAY_CHANGE))
            what = f"the checkpoint was made with other settings ({keys})"
            todo = "Resume with the configuration the run was started with, or start another run"
            raise InputError(what, where=self.folder, todo=todo)
        self.method.load_state_dict(checkpoint.under("method", state.tensors))
        for name, ema in self.emas.items():
            ema.net.load_state_dict(checkpoint.under(f"ema.{name}", state.tensors))
        for name, optimiser in self.optimisers.items():
            checkpoint.restore_optimiser(optimiser, checkpoint.under(f"optim.{name}", state.tensors))
        torch.set_rng_state(state.tensors["rng.cpu"])
        self.iteration, self.history = state.iteration, state.history
        if changed:
            self.history.append({"iteration": self.iteration, "changed": changed})

    def validate(self, cases: list[ValidationCase]) -> list[Validation]:
        """Score the average of every candidate and note it in the history."""
        results = [validate(name, ema.net, self.config.task, cases) for name, ema in self.emas.items()]
        self.history += [result.record(self.iteration) for result in results]
        return results


def train(config: TrainConfig, folder: Path, listener: Listener, *, resume: bool = False) -> ModelBundle:
    """Train as configured and write `folder/bundle`.

    Parameters
    ----------
    config
        The run.
    folder
        Holds the checkpoint, the event files and the bundle.
    listener
        Is told of every iteration and validation.
    resume
        Go on from the newest checkpoint in `folder`.

    Raises
    ------
    InputError
        If the folder already holds a run and `resume` is off, or the data cannot be read.
    """
    started = time.monotonic()
    keep_pages()
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    torch.use_deterministic_algorithms(True)
    # Filling fresh tensors guards against reading them unwritten; nothing here does, and it costs 7 %.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    splits = read_splits(config.data)
    folder.mkdir(parents=True, exist_ok=True)
    if not resume and (folder / checkpoint.FILE).exists():
        todo = "Go on with --resume, or give another folder"
        raise InputError("this folder already holds a run", where=folder, todo=todo)
    run = Run(config, folder)
    if resume:
        run.restore()
    cases = read_validation(Path(config.data.folder), splits.validation)
    results: list[Validation] = []
    listener.began(run.iteration, config.run.iterations)
    for batch in _batches(_sampler(config, splits), run):
        listener.stepped(run.iteration + 1, run.step(batch))
        last = run.iteration == config.run.iterations
        if cases and (last or run.iteration % config.run.validate_every == 0):
            results = run.validate(cases)
            listener.validated(run.iteration, results)
        if last or run.iteration % config.run.checkpoint_every == 0:
            run.save()
    if not results and cases:  # resumed after the last iteration
        results = run.validate(cases)
    return write_bundle(run, splits, results, time.monotonic() - started)


def schedule(config: OptimiserConfig, progress: float) -> float:
    """The learning rate's share of its first value: 1 at progress 0, 0 at progress 1."""
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return float((1 - progress) ** 0.9)


def _batches(sampler: Sampler, run: Run) -> Iterator[Batch]:
    """Batches from the run's iteration on.

    On a GPU the next one is drawn while this one is learnt from. On a CPU that costs more than it
    saves: a second thread brings a second team of workers for the same cores (0.89 against 0.70 s a
    step on two cores).
    """
    views, last = run.method.views, run.config.run.iterations
    if run.device.type == "cpu":
        for iteration in range(run.iteration, last):
            yield sampler.batch(iteration, views(iteration))
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(sampler.batch, run.iteration, views(run.iteration))
        for iteration in range(run.iteration, last):
            batch = ahead.result()
            ahead = pool.submit(sampler.batch, iteration + 1, views(iteration + 1))
            yield batch


def _sampler(config: TrainConfig, splits: Splits) -> Sampler:
    folder = Path(config.data.folder)
    labelled = [read_case(folder, name, config.task, labelled=True) for name in splits.labelled]
    names = splits.unlabelled if config.method != "supervised" else ()
    unlabelled = [read_case(folder, name, config.task, labelled=False) for name in names]
    if config.method != "supervised" and not unlabelled:
        raise InputError(
            "names no unlabelled case", where=folder / "dataset.json", todo="Set method = 'supervised'"
        )
    return Sampler(
        labelled, unlabelled, task=config.task, data=config.data, augment=config.augment, seed=config.run.seed
    )


def _sgd(parameters: list[torch.nn.Parameter], config: OptimiserConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        config.lr,
        config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )


def _device(config: TrainConfig) -> torch.device:
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise MissingError(
            "run.device = 'cuda', but torch finds no CUDA device", todo="Set run.device = 'cpu'"
        )
    return torch.device(config.run.device)


def _to(batch: Batch, device: torch.device) -> Batch:
    views = tuple(v.to(device, memory_format=torch.channels_last_3d) for v in batch.views)
    return Batch(views, batch.target.to(device))


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Dotted key -> [old value, new value]."""
    found: dict[str, list[Any]] = {}
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = [a, b]
    return found
