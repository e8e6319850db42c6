"""The runtimes OpenVINO and torch. Each takes patches and returns logits; none imports another's library.

Only one runtime is loaded in a process: torch and OpenVINO slow each other two- to threefold.
A request that cannot be met raises an error with the reason; only `auto` may choose.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.bundle.manifest import SIDES
from c3s3_seg.errors import InputError, MissingError
from c3s3_seg.inference.backends.execute import opening
from c3s3_seg.inference.backends.graph import LARGEST, read_graph
from c3s3_seg.inference.device.cuda_graphs import CudaGraphs, Recordings, record_on_gpu
from c3s3_seg.inference.tiling import FloatArray
from c3s3_seg.system.choices import Precision
from c3s3_seg.system.half_precision import processor_units
from c3s3_seg.system.hardware import NO_GPU, cuda_index, is_cuda, is_memory_error, slow_convolutions
from c3s3_seg.system.libraries import import_openvino
from c3s3_seg.system.reading import read_known

if TYPE_CHECKING:
    from torch import Tensor, nn


# Number of shapes that OpenVINO keeps compiled. Each holds weights and maps (0.15 GB for a whole atrium) and
# saves 0.3 s. The last 20 unlabelled atria have 4 shapes, and each is compiled once.
COMPILED = 3


class OpenVinoBackend:
    """OpenVINO on the CPU: the fastest runtime measured there.

    Raises
    ------
    MissingError
        If the device is CUDA, or the CPU does not compute in the requested precision.
    InputError
        If the graph cannot be opened, or takes weights from a file other than its own.
    """

    name = "openvino"

    def __init__(
        self,
        graph: Path,
        threads: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        if is_cuda(device):
            todo = "Take --backend onnx or torch for CUDA, or --device cpu"
            raise MissingError("OpenVINO does not run on CUDA", todo=todo)
        self._core = import_openvino().Core()
        self.device, self.precision = "cpu", "float32" if precision == "auto" else precision
        hint = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[self.precision]
        _check_openvino_precision(self._core, self.precision)
        # On CPUs with bfloat16 units OpenVINO would compute in bfloat16 by default.
        self._config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        # With pinning, the single threads of all processes would share one processor.
        self._config["ENABLE_CPU_PINNING"] = False
        if threads is not None:
            self._config["INFERENCE_NUM_THREADS"] = threads
        with opening(graph, self.name):
            # Bytes, because OpenVINO would follow the references to other files if given a path.
            model = graph if graph.suffix == ".xml" else read_graph(graph, hashes)
            self._model = self._core.read_model(model)
            if len(self._model.inputs) != 1 or len(self._model.outputs) != 1:
                found = f"{len(self._model.inputs)} inputs and {len(self._model.outputs)} outputs"
                raise InputError(f"found {found}, wanted one of each", where=graph)
            self._check_precision()
        self.keep = COMPILED
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._alone = threading.Lock()  # a compiled model answers one caller at a time

    def _check_precision(self) -> None:
        """Compile a small tile in half precision: OpenVINO may list it, but not support the whole network.

        With a limited instruction set (ONEDNN_MAX_CPU_ISA) it lists bfloat16, and fails at the scan.
        """
        if self.precision == "float32":
            return
        self._model.reshape([1, 1, *[SIDES] * 3])
        try:
            self._core.compile_model(self._model, "CPU", self._config)
        except RuntimeError as error:
            if is_memory_error(error):
                raise
            what = f"OpenVINO lists {self.precision} and cannot compile this network in it on this CPU"
            raise MissingError(what, todo="Leave --precision out, or take float32") from error

    def __call__(self, patches: FloatArray) -> FloatArray:
        """See `Backend`."""
        with self._alone:
            return np.asarray(self._for(patches.shape)(patches)[0])

    def compile_for(self, shape: tuple[int, ...]) -> None:
        """Compile for patches of this shape (N, C, X, Y, Z) before the first patches arrive."""
        with self._alone:
            self._for(shape)

    def _for(self, shape: tuple[int, ...]) -> Any:
        """Return the network for one shape, which is faster than a dynamic one. The last few are kept."""
        compiled = self._compiled.pop(shape, None)
        if compiled is None:
            for oldest in list(self._compiled)[: max(0, len(self._compiled) + 1 - self.keep)]:
                del self._compiled[oldest]
            self._model.reshape(list(shape))
            compiled = self._core.compile_model(self._model, "CPU", self._config)
        self._compiled[shape] = compiled
        return compiled


def _check_openvino_precision(core: Any, precision: str) -> None:
    wanted = {"float16": "FP16", "bfloat16": "BF16"}.get(precision)
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if wanted is not None and wanted not in able:
        what = f"this CPU does not compute in {precision} (OpenVINO lists {', '.join(able)})"
        raise MissingError(what, todo="Leave --precision out, or take float32")


@dataclass(frozen=True)
class TorchOptions:
    """Options for running a network in torch, which change its output by no more than rounding.

    Parameters
    ----------
    channels_last
        Whether the channels of a voxel lie together in memory, which torch's convolutions prefer.
    cuda_graphs
        Whether the work of a GPU for a shape of patches is recorded, see `CudaGraphs`. Not for a network
        in training, whose maps the recording would keep in memory.
    recordings
        Recordings shared with other networks on the GPU; None: not shared.
    emulate
        Whether a half precision is computed on a processor without units for it, which is slow.
    """

    channels_last: bool = True
    cuda_graphs: bool = False
    recordings: Recordings | None = None
    emulate: bool = True


class TorchBackend:
    """torch: the runtime of validation in training, and the reference of every export.

    Parameters
    ----------
    net
        Network, on the device where it is to run.
    threads
        Number of threads on the CPU.
    precision
        `float32`, or one of the two half precisions, in which convolutions are then computed.
    options
        Options of torch; None: the defaults.
    """

    name = "torch"

    def __init__(
        self,
        net: nn.Module,
        threads: int | None = None,
        precision: Precision = "auto",
        options: TorchOptions | None = None,
    ) -> None:
        import torch

        options = options or TorchOptions()

        if threads is not None:
            torch.set_num_threads(threads)
        self._torch = torch
        self._net = net.eval()
        self._device = next(net.parameters()).device
        self.device, self.place = self._device.type, str(self._device)
        self.precision = "float32" if precision == "auto" else precision
        self.notes: tuple[str, ...] = ()
        self._layout = torch.channels_last_3d if options.channels_last else torch.contiguous_format
        self._graphs: CudaGraphs | None = None
        if options.cuda_graphs and self.device == "cuda":
            self._graphs = CudaGraphs(self._logits, record_on_gpu, options.recordings)

    def __call__(self, patches: FloatArray) -> FloatArray:
        """See `Backend`."""
        logits = self.on_device(self._torch.from_numpy(patches).to(self._device))
        return np.ascontiguousarray(logits.cpu().numpy())

    def on_device(self, patches: Tensor) -> Tensor:
        """See `DeviceBackend`."""
        graphs = self._graphs
        if graphs is None:
            return self._logits(patches)
        logits = graphs(patches)
        if graphs.failure is not None and graphs.failure not in self.notes:
            self.notes = (*self.notes, graphs.failure)
        return logits

    @property
    def kept_memory(self) -> int:
        """See `KeepingBackend`: memory of CUDA graphs, which torch counts as unused."""
        return self._graphs.recordings.memory(self._device) if self._graphs is not None else 0

    def give_back(self) -> None:
        """See `KeepingBackend`."""
        if self._graphs is not None and self._graphs.recordings.hold(self._device):
            self._graphs.recordings.drop(self._device)

    def _logits(self, patches: Tensor) -> Tensor:
        torch = self._torch
        half = self.precision != "float32"
        kind = getattr(torch, self.precision) if half else torch.bfloat16
        with torch.inference_mode(), torch.autocast(self.device, dtype=kind, enabled=half):
            logits: Tensor = self._net(patches.to(memory_format=self._layout))
            return logits.float().contiguous()


def load_torch(bundle: ModelBundle, network: Network) -> nn.Module:
    """Build a backbone in torch and load the bundle's weights, in single precision."""
    import torch

    from c3s3_seg.models import build
    from c3s3_seg.models.weights_format import from_bytes

    path, classes = bundle.folder / network.weights, bundle.task.classes
    content = read_known(path, bundle.manifest.files, LARGEST)
    with torch.device("meta"):  # a manifest may state more filters than any memory holds
        net = build(
            network.architecture,
            channels=network.channels,
            classes=classes,
            filters=network.filters,
            strides=bundle.task.network_strides,
        )
    try:
        net.load_state_dict(from_bytes(content, path), assign=True)
    except RuntimeError as error:  # extra or missing keys, or another shape
        what = f"these are not the weights of a {network.architecture} with {network.filters} filters"
        raise InputError(what, where=path) from error
    net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return net.eval()


def open_torch(
    bundle: ModelBundle,
    network: Network,
    threads: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    options: TorchOptions | None = None,
) -> TorchBackend:
    """Open a bundle's network in torch, made fast: pages kept, batch norm folded, half precision on CUDA.

    Without options, CUDA graphs are recorded too.

    Raises
    ------
    MissingError
        If CUDA was requested and torch does not have it, or the processor has no units for the half
        precision, and emulation is not wanted.
    """
    import torch

    from c3s3_seg.system.process import keep_pages

    has_cuda = torch.cuda.is_available()
    if is_cuda(device) and not has_cuda:
        why = NO_GPU if torch.version.cuda else "this build of torch is for the CPU only"
        raise MissingError(f"torch does not run on CUDA here: {why}", todo="Take --device cpu")
    place = f"cuda:{cuda_index(device)}" if has_cuda and device != "cpu" else "cpu"
    if precision == "auto":
        precision = "float32" if place == "cpu" else "float16"
    options = options or TorchOptions(cuda_graphs=True)
    if place == "cpu":
        if not options.emulate:
            _refuse_emulation(precision)
        keep_pages()
    elif precision == "float32":
        forbid_tf32()
    net = fold_batch_norm(load_torch(bundle, network)).to(place)
    if not options.channels_last:
        net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if place != "cpu" and precision != "float32":  # on the CPU some small maps stay in float32
        round_convolutions(net, getattr(torch, precision))
    backend = TorchBackend(net, threads, precision, options)
    if place != "cpu" and precision != "float32" and not options.channels_last:
        backend.notes += slow_convolutions(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return backend


def _refuse_emulation(precision: Precision) -> None:
    """Raise if the processor has no units for a half precision: torch would emulate it, 30 times slower."""
    if precision != "float32" and not processor_units(precision):
        what = f"this CPU has no units for {precision}, which torch would emulate"
        raise MissingError(what, todo="Leave --precision out, or take float32")


def forbid_tf32() -> None:
    """Keep float32 on a GPU exact: by default cuDNN rounds it to TF32, with ten bits of mantissa."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def round_convolutions(net: nn.Module, kind: Any) -> None:
    """Round the weights of convolutions to `kind`, in place; else autocast does so for every tile."""
    from torch import nn

    for module in net.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.to(kind)


def fold_batch_norm(net: nn.Module) -> nn.Module:
    """Fold every batch norm into the convolution before it, in place: in inference it is a constant scale.

    The pairs follow from the order of registration: in the backbones each batch norm follows its convolution.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    before: tuple[str, nn.Module] | None = None
    for name, child in list(net.named_children()):
        if isinstance(child, nn.BatchNorm3d) and before is not None:
            transposed = isinstance(before[1], nn.ConvTranspose3d)
            fused: Any = fuse_conv_bn_eval(before[1], child, transpose=transposed)  # type: ignore[type-var]
            setattr(net, before[0], fused)
            setattr(net, name, nn.Identity())
        else:
            fold_batch_norm(child)
        before = (name, child) if isinstance(child, nn.Conv3d | nn.ConvTranspose3d) else None
    return net
