"""The state of a run (nets, averages, optimisers, history), its step and its checkpoint."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from c3s3_seg.dataset import Splits
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.inference.backends.execute import NotFiniteError
from c3s3_seg.models.activation_checkpointing import set_activation_checkpointing
from c3s3_seg.system.schema import dump, parse
from c3s3_seg.training import checkpoint
from c3s3_seg.training.cases import ValidationCase
from c3s3_seg.training.config import TrainConfig, warm_up
from c3s3_seg.training.data import ALONE, Batch
from c3s3_seg.training.device import autocast, choose_device, move
from c3s3_seg.training.distributed import ProcessGroup, led, mean, synchronise
from c3s3_seg.training.ema import Ema
from c3s3_seg.training.folds import cases_sha256
from c3s3_seg.training.history import LAG, History, scored
from c3s3_seg.training.method_settings import without_unread
from c3s3_seg.training.methods import Method, Stepper, build_method
from c3s3_seg.training.optimiser import adam, schedule, sgd
from c3s3_seg.training.precision import Precision, choose
from c3s3_seg.training.random_streams import of_process, seed_of
from c3s3_seg.training.records import Cases
from c3s3_seg.training.resume import changed_settings, refuse_earlier_phase, refuse_shorter
from c3s3_seg.training.validation import Validation, validate


class DivergedError(InputError):
    """The error for a loss, weight or output that is not finite; other runs of a study can continue."""


class Run:
    """The state that changes in training, and its checkpoint."""

    def __init__(self, config: TrainConfig, folder: Path, group: ProcessGroup = ALONE) -> None:
        torch.manual_seed(config.run.seed)
        self.config, self.folder, self.group = config, folder, group
        self.device = choose_device(config, group)
        self.method: Method = build_method(config).to(self.device)
        _refuse_several(self.method, group)
        self.method.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        synchronise(self.method, self.device)
        set_activation_checkpointing(self.method, config.run.activation_checkpointing)
        self.stepper = _stepper(self.method, group)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.run.precision == "float16")
        self.own = self.method.own_optimisers()
        self.optimisers = {
            name: adam(p, self.own[name]) if name in self.own else sgd(p, config.optimiser)
            for name, p in self.method.optimised().items()
        }
        self.emas = {
            name: Ema(net, config.optimiser.ema) for name, (net, _) in self.method.candidates().items()
        }
        self.iteration = 0
        self.history = History()
        # Weights by net: the best so far, only if they may be kept; and the first ones, if they are blended
        # with the learnt weights.
        self.best: dict[str, checkpoint.Tensors] = {}
        self.best_cases: dict[str, Cases] = {}  # the scores of each case with the best weights, by net
        self.first: dict[str, checkpoint.Tensors] = {}
        self._precision: Precision | None = None
        self._earlier_s, self._started_s = 0.0, time.monotonic()

    @property
    def precision(self) -> Precision:
        """The precision of the run: chosen once, noted in the history if "auto", and kept on resume."""
        if self._precision is None:
            chosen = choose(self.config)
            if self.config.run.precision == "auto":
                chosen = self._agreed(chosen)
                self._note_precision(chosen)
            self._precision = chosen
        return self._precision

    def _agreed(self, chosen: Precision) -> Precision:
        """Return the first process's choice, so that all processes compute in the same precision."""
        half = led(self.group.leads and chosen.name == "bfloat16")
        return Precision("bfloat16" if half else "float32", chosen.why)

    def _note_precision(self, chosen: Precision) -> None:
        self.history.note(self.iteration, precision=chosen.name, why=chosen.why)

    @property
    def seconds(self) -> float:
        """The wall-clock time spent so far, over all starts of this run."""
        return self._earlier_s + time.monotonic() - self._started_s

    @property
    def begun(self) -> bool:
        """Whether the run began from a bundle's networks."""
        return self.history.first("initialized_from") is not None

    def step(self, batch: Batch) -> dict[str, float]:
        """Run one iteration, and return the numbers for the log."""
        progress = self.iteration / self.config.run.iterations
        lr = self.config.optimiser.lr * schedule(self.config.optimiser, progress)
        precision = self.precision.name
        terms: dict[str, float] = {"lr": lr}
        self.method.train()
        # Dropout draws from the global generator: with this seed, an iteration depends on its number alone.
        torch.manual_seed(seed_of(self.config.run.seed, self.iteration, of_process(self.group.rank)))
        with autocast(self.device, precision):
            for phase in self.stepper(move(batch, self.device), self.iteration):
                loss = self._descend(phase.loss, phase.optimisers, lr)
                if not set(phase.optimisers) <= self.own.keys():  # a loss of the trained networks
                    terms["loss"] = terms.get("loss", 0.0) + loss
                terms |= phase.terms
        self.method.after_step(self.iteration)
        for name, (net, _) in self.method.candidates().items():
            self.emas[name].update(net, self.iteration)
        self.iteration += 1
        return dict(zip(terms, mean(list(terms.values())), strict=True))

    def _descend(self, loss: Tensor, names: tuple[str, ...], lr: float) -> float:
        """Run a backward pass and the optimisers; return the loss, read once, as this waits for a GPU."""
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for name in names:
            for group in () if name in self.own else self.optimisers[name].param_groups:
                group["lr"] = lr
            self.scaler.step(self.optimisers[name])
            self.optimisers[name].zero_grad(set_to_none=True)  # frees memory for the next forward
        self.scaler.update()
        torch.clear_autocast_cache()  # holds weights in half precision: the next phase needs the new ones
        return value

    def _diverged(self, what: str) -> DivergedError:
        """Return the error for numbers that are not finite; the last checkpoint stays unchanged."""
        known = self.config.run.precision if self._precision is None else self._precision.name
        single = "" if known == "float32" else ", or with run.precision = 'float32'"
        kept = "; the last checkpoint is kept" if (self.folder / checkpoint.FILE).exists() else ""
        todo = f"Start another run with a lower optimiser.lr{single}"
        what = f"the run diverges: {what} at iteration {self.iteration}{kept}"
        return DivergedError(what, where=self.folder, todo=todo)

    def check_finite(self) -> None:
        """Check the weights before they are kept or validated: the last step may have made them infinite.

        Raises
        ------
        InputError
            If a weight, or a moving average of one, is not finite.
        """
        for name, (net, _) in self.method.candidates().items():
            for kind, module in (("weights", net), ("averages", self.emas[name].net)):
                if not all(torch.isfinite(v).all() for v in module.state_dict().values()):
                    raise self._diverged(f"{kind} of {name} are not finite")

    def warn(self, text: str) -> None:
        """Note a warning in the history, once."""
        self.history.warn(self.iteration, text)

    def note_teacher(self, record: dict[str, Any]) -> None:
        """Note the teacher in the history, once; its masks may lie in another folder than at the start.

        Raises
        ------
        InputError
            If the run began with another teacher.
        """
        known = self.history.first("teacher") or {}
        moved = {"masks": known["masks"]} if {"masks"} <= known.keys() & record.keys() else {}
        self.history.note_once(self.iteration, "teacher", record | moved, self.folder)

    def note_cases(self, splits: Splits) -> None:
        """Note the training and validation cases in the history, once.

        Raises
        ------
        InputError
            If the run began with other cases: every crop is drawn by a case's position in these lists.
        """
        names = ("labelled", "unlabelled", "validation")
        counts = {name: len(getattr(splits, name)) for name in names}
        self.history.note_once(
            self.iteration, "cases", {**counts, "sha256": cases_sha256(splits)}, self.folder
        )

    def save(self) -> None:
        """Write the checkpoint.

        Raises
        ------
        InputError
            If a weight is not finite; the previous checkpoint stays.
        """
        self.check_finite()
        tensors = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        tensors |= {f"scaler.{k}": torch.tensor(v) for k, v in self.scaler.state_dict().items()}
        for name, ema in self.emas.items():
            tensors |= {f"ema.{name}.{k}": v for k, v in ema.net.state_dict().items()}
        for kind, kept in (("best", self.best), ("first", self.first)):
            for name, weights in kept.items():
                tensors |= {f"{kind}.{name}.{k}": v for k, v in weights.items()}
        for name, optimiser in self.optimisers.items():
            tensors |= {f"optim.{name}.{k}": v for k, v in checkpoint.optimiser_tensors(optimiser).items()}
        records = self.history.records
        settings = dump(self.config)
        state = checkpoint.State(self.iteration, settings, tensors, records, self.seconds, self.best_cases)
        checkpoint.write(self.folder, state)

    def restore(self) -> None:
        """Restore the newest checkpoint.

        Raises
        ------
        InputError
            If the checkpoint belongs to another configuration, or is incomplete.
        """
        with checkpoint.restoring(self.folder):
            self._restore()

    def _restore(self) -> None:
        state = checkpoint.read(self.folder)
        settings = without_unread(state.config)  # other methods may have lost a key
        before = parse(TrainConfig, settings, self.folder)  # newer keys get their defaults
        if state.iteration > before.run.iterations:
            raise ValueError(f"it is at iteration {state.iteration} of {before.run.iterations}")
        refuse_shorter(state.iteration, before, self.config, self.folder)
        refuse_earlier_phase(state.iteration, before, self.config, self.folder)
        history = History(state.history)
        began = history.precision(before)
        changed = changed_settings(before, self.config, began, self.folder)
        self.method.load_state_dict(checkpoint.under("method", state.tensors))
        for name, ema in self.emas.items():
            ema.net.load_state_dict(checkpoint.under(f"ema.{name}", state.tensors))
            for kind, kept in (("best", self.best), ("first", self.first)):
                weights = checkpoint.under(f"{kind}.{name}", state.tensors)
                if weights:
                    copy.deepcopy(ema.net).load_state_dict(weights)  # raises if they do not fit
                    kept[name] = weights
        for name, optimiser in self.optimisers.items():
            checkpoint.restore_optimiser(optimiser, checkpoint.under(f"optim.{name}", state.tensors))
        torch.set_rng_state(state.tensors["rng.cpu"])
        self._earlier_s, self.iteration, self.history = state.seconds, state.iteration, history
        self.best_cases = {name: cases for name, cases in state.best_cases.items() if name in self.best}
        self._keep(began, checkpoint.under("scaler", state.tensors), before.run.precision)
        if changed:
            self.history.note(self.iteration, changed=changed)

    def _keep(self, began: Precision | None, scaler: checkpoint.Tensors, configured: str) -> None:
        """Continue in the precision that the run began with, which may have been configured as "auto"."""
        self._precision = began
        if began is None:
            return
        if self.config.run.precision == "auto" != configured:
            self._note_precision(began)  # the next resumed run reads it there
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=began.name == "float16")
        if scaler:
            self.scaler.load_state_dict({name: value.item() for name, value in scaler.items()})

    def validate(self, cases: list[ValidationCase]) -> list[Validation]:
        """Score the average of every candidate, note the scores in the history, and keep the best weights.

        Raises
        ------
        DivergedError
            If a weight, or an output of a network, is not finite.
        """
        self.check_finite()
        try:
            results = [validate(name, self.evaluated(name), self.config.task, cases) for name in self.emas]
        except NotFiniteError as error:  # of weights that are finite, but too large
            raise self._diverged(error.what) from error
        for result in results:
            name = result.candidate
            if self.history.add_scores(result, self.iteration) and self.config.run.keep == "best":
                self.best[name] = {k: v.clone() for k, v in self.evaluated(name).state_dict().items()}
                self.best_cases[name] = result.per_case
        return results

    def kept(self, results: list[Validation]) -> list[dict[str, Any]]:
        """Return the validation record of the weights that ship, net by net, rounded as in the history.

        `results` are those of the last validation.
        """
        if self.config.run.keep == "best":
            return [record for name in self.emas if (record := self.history.best(name)) is not None]
        return [scored(result, self.iteration) for result in results]

    def evaluated(self, name: str) -> nn.Module:
        """Return a net as it would ship now: its average, blended with the weights it began from."""
        net = self.emas[name].net
        if name not in self.first:
            return net
        share, blended = self.config.run.blend, copy.deepcopy(net)
        first = {k: v.to(self.device) for k, v in self.first[name].items()}
        trained_on = net.state_dict()
        blended.load_state_dict(
            {k: first[k].lerp(v, share) if v.is_floating_point() else v for k, v in trained_on.items()}
        )
        return blended

    def focus(self, iteration: int) -> tuple[str, ...]:
        """Return the labels that crops of this iteration show more often.

        With several processes there are none: one process validates, so that the others would not know.
        """
        return self.history.unlearnt(iteration - LAG) if self.group.size == 1 else ()

    def lacks_validation(self) -> bool:
        """Return whether the run was stopped between a checkpoint and the validation after it."""
        due = self.iteration % self.config.run.validate_every == 0
        due = due or self.iteration == self.config.run.iterations
        known = {record["iteration"] for record in self.history.kind("dice")}
        return self.iteration > 0 and due and self.iteration not in known

    def stalled(self) -> bool:
        """Return whether the patience is exhausted."""
        return self.history.stalled(self.config.run.patience, warm_up(self.config))


def _refuse_several(method: Method, group: ProcessGroup) -> None:
    if group.size > 1 and method.alone:
        what = f"method '{method.config.method}' trains in one process only: {method.alone}"
        raise ConfigError(what, todo="Start it without torchrun")


def _stepper(method: Method, group: ProcessGroup) -> nn.Module:
    """Return the method's step as a module; with several processes, gradients are averaged over them."""
    stepper = Stepper(method)
    if group.size == 1:
        return stepper
    # In the warm-up the projectors have no gradient.
    return DistributedDataParallel(stepper, find_unused_parameters=True, broadcast_buffers=False)
