"""Inference: tiles, runtimes and the predictor."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.arguments import FLAG
from c3s3_seg.inference.backends.runtimes import OpenVinoBackend
from c3s3_seg.inference.backends.select import BackendRequest, open_backend, uses_gpu
from c3s3_seg.inference.device.cuda_graphs import Recordings
from c3s3_seg.inference.memory import costs_of
from c3s3_seg.inference.prediction import Prediction
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.inference.settings import Settings
from c3s3_seg.inference.tuning.profile import with_profile
from c3s3_seg.inference.uncertainty import NetworkComparison
from c3s3_seg.system.choices import BackendName
from c3s3_seg.system.process import forbid_telemetry

forbid_telemetry()  # before a module above imports OpenVINO, which happens at its first use


def open_predictor(
    bundle: ModelBundle | str | Path,
    *,
    backend: BackendName | BackendRequest = "auto",
    settings: Settings | None = None,
    ensemble: bool = False,
) -> Predictor:
    """Load the network of a bundle, or several of its networks, into a runtime.

    Parameters
    ----------
    bundle
        The model; or its name or path, as in `ModelBundle.find`.
    backend
        `auto` selects the fastest installed runtime; any other name is used, or an error is raised. A
        `BackendRequest` sets device, precision and threads too.
    settings
        Tiling and the results to keep; None: the defaults.
    ensemble
        Whether to average the probabilities of all networks: both of a run, all members of an ensemble, and
        those of a linked bundle.

    Raises
    ------
    MissingError
        If the requested runtime, device or precision is not available.
    InputError
        If there is no such model, an argument is of another kind, the bundle lacks a required file, or it
        holds one network and an ensemble or an uncertainty estimate is requested.
    """
    if not isinstance(bundle, ModelBundle):
        bundle = ModelBundle.find(bundle)
    settings = Settings() if settings is None else settings
    if not isinstance(settings, Settings):
        what = f"found settings of type {type(settings).__name__}, wanted Settings"
        raise InputError(what, todo="For example: settings=c3s3_seg.Settings(overlap=0.5)")
    ensemble = FLAG.take("ensemble", ensemble)
    several = ensemble or settings.uncertainty
    members = bundle.members() if several else [(bundle, bundle.networks[0])]
    if several and len(members) < 2:
        what = "an ensemble was asked for" if ensemble else "an uncertainty estimate needs two networks"
        raise InputError(f"{what}, but this bundle holds one network", where=bundle.folder)
    networks = [network for _, network in members]
    request = backend if isinstance(backend, BackendRequest) else BackendRequest(backend)
    has_graphs = all(home.has(network.graph) for home, network in members)
    on_gpu = settings.profile is not None and uses_gpu(bundle, networks[0], request)
    request, best, remarks = with_profile(request, settings.profile, networks[0], has_graphs, on_gpu)
    named = request.runtime != "auto"
    if not named and not has_graphs and importlib.util.find_spec("torch"):
        request = replace(request, runtime="torch")  # one runtime for all: the record names one
    recordings = Recordings()
    backends = [open_backend(home, network, request, recordings, named=named) for home, network in members]
    for opened in backends:
        if settings.memory_bytes is not None and isinstance(opened, OpenVinoBackend):
            opened.keep = 1  # the memory for the next scan must fit as well
    costs = costs_of(backends[0].name, networks)
    if best is not None and len(networks) == 1:
        costs = best.costs
    calibration = bundle.manifest.uncertainty
    comparison = NetworkComparison(
        leading=len(networks) if ensemble else 1,
        threshold_mm=calibration.threshold_mm if calibration else None,
    )
    return Predictor(bundle.task, backends, settings, costs, comparison, remarks)


__all__ = ["BackendRequest", "Prediction", "Predictor", "Settings", "open_predictor"]
