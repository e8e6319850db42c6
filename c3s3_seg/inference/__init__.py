"""Tiles, runtimes and the predictor."""

from __future__ import annotations

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.inference.backends import Choice, open_backend
from c3s3_seg.inference.predictor import Prediction, Predictor, Settings
from c3s3_seg.inference.telemetry import forbid

forbid()  # before any of the above imports OpenVINO, which they do when they first need it


def open_predictor(
    bundle: ModelBundle,
    *,
    backend: Choice = "auto",
    settings: Settings | None = None,
    ensemble: bool = False,
    threads: int | None = None,
) -> Predictor:
    """Load a bundle's network into a runtime.

    Parameters
    ----------
    bundle
        The model.
    backend
        `auto` takes the fastest that is installed; any other is taken or refused.
    settings
        How to tile and what to keep.
    ensemble
        Average the probabilities of both networks.
    threads
        How many; None leaves it to the runtime.

    Raises
    ------
    MissingError
        If the runtime is not installed.
    InputError
        If the bundle lacks the file it needs, or holds one network and an ensemble is asked for.
    """
    if ensemble and len(bundle.networks) < 2:
        raise InputError("an ensemble was asked for, but this bundle holds one network", where=bundle.folder)
    networks = bundle.networks if ensemble else bundle.networks[:1]
    backends = [open_backend(bundle, network, backend, threads) for network in networks]
    return Predictor(bundle.task, backends, settings)


__all__ = ["Prediction", "Predictor", "Settings", "open_predictor"]
