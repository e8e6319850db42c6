"""Build TensorRT engines, and keep them in a folder on this machine.

An engine is machine code for one GPU and one TensorRT, built from one graph. Loading an engine runs it, so
it is never taken from a bundle or a download: it is signed with a key that never leaves the user's cache
folder, and an engine that was not signed on this machine is rebuilt from the graph.

Not run on a GPU so far: type-checked against the bindings of TensorRT 11.4 and 10.16.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError, MissingError, RefusedError
from c3s3_seg.inference.backends.cuda import INSTALL, gpu
from c3s3_seg.inference.backends.tensorrt_log import LOG, logger, reasons
from c3s3_seg.system.files import make_folder, unwritten, write_whole
from c3s3_seg.system.lock import hold
from c3s3_seg.system.reading import read_regular

INPUT = "scan"
Shape = tuple[int, int, int]
LARGEST = 192  # side of a tile; a larger limit takes memory in proportion, used or not
LARGEST_ENGINE = 2**33  # bytes
SIGNATURE = 32  # bytes of an HMAC-SHA256


@dataclass(frozen=True)
class ShapeProfile:
    """The inputs that an engine is built for.

    Parameters
    ----------
    tile
        The tile (x, y, z) that the engine is tuned for; sides up to 192, or the tile's, are accepted.
    multiple
        Smallest sides of a tile, `Task.multiple`: the whole of a scan with few slices is one thin tile.
    channels
        Channels of the input.
    batch
        The most patches in one call.
    """

    tile: Shape
    multiple: Shape
    channels: int = 1
    batch: int = 1

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the smallest, tuned and largest (N, C, x, y, z)."""
        least = (1, self.channels, *self.multiple)
        best = (self.batch, self.channels, *self.tile)
        most = (self.batch, self.channels, *(max(LARGEST, side) for side in self.tile))
        return least, best, most


@dataclass(frozen=True)
class CacheKey:
    """The properties that an engine fits: it may not run if any of them differs.

    Parameters
    ----------
    graph
        sha256 of the ONNX graph that the engine was built from, weights included.
    gpu, capability
        The GPU's name and its compute capability.
    tensorrt
        Version of TensorRT.
    profile
        Smallest, tuned and largest input, as text.
    """

    graph: str
    gpu: str
    capability: str
    tensorrt: str
    profile: str

    @classmethod
    def here(cls, graph: bytes, profile: ShapeProfile) -> CacheKey:
        """Return the key of an engine that would be built now.

        Raises
        ------
        MissingError
            If TensorRT or a GPU is missing.
        """
        version, found = str(library().__version__), gpu()
        shapes = " ".join("x".join(map(str, shape)) for shape in profile.shapes())
        return cls(hashlib.sha256(graph).hexdigest(), found.name, found.capability, version, shapes)

    def file(self, batch: int) -> str:
        """Return the name of the engine's file: each kind of GPU has its own.

        An engine of another TensorRT or for other sizes is replaced, so that none stays behind after an
        upgrade of TensorRT.
        """
        gpu = hashlib.sha256(f"{self.gpu}, {self.capability}".encode()).hexdigest()
        return f"{self.graph[:24]}-{gpu[:8]}-{batch}.engine"

    def misfit(self, here: CacheKey) -> str | None:
        """Return the first difference from `here`, in words; None if the engine fits."""
        pairs = [(name, value, getattr(here, name)) for name, value in asdict(self).items()]
        return next((f"{name} was {was}, is {now}" for name, was, now in pairs if was != now), None)


def library() -> Any:
    """Return the module of TensorRT.

    Raises
    ------
    MissingError
        If TensorRT is not installed, or its libraries do not load.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise MissingError(f"the backend 'tensorrt' cannot be loaded ({error})", todo=INSTALL) from None
    return tensorrt


def build(graph: bytes, profile: ShapeProfile, timing: bytes = b"") -> tuple[bytes, bytes]:
    """Return a serialized engine, and the timing cache that makes the next build faster.

    The precision is the graph's own: TensorRT 11 allows no other, and 10 is set to do the same. TF32 is off,
    so that single precision keeps its full mantissa.

    Parameters
    ----------
    graph
        ONNX without external data.
    profile
        Inputs of the engine.
    timing
        An earlier timing cache; a cache of another GPU or version is left out.

    Raises
    ------
    ImportError
        If TensorRT is missing.
    RefusedError
        If TensorRT does not accept the graph, with its reasons, or the input sizes, or builds no engine.
    """
    import tensorrt as trt

    builder = trt.Builder(logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger())
    if not parser.parse(graph):
        reasons()  # the same, without the place in the graph
        found = "; ".join(parser.get_error(n).desc() for n in range(parser.num_errors))
        raise RefusedError(f"TensorRT does not take this graph: {found}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    shapes = builder.create_optimization_profile()
    least, best, most = (trt.Dims(shape) for shape in profile.shapes())
    shapes.set_shape(INPUT, least, best, most)
    if config.add_optimization_profile(shapes) < 0:
        raise RefusedError(f"TensorRT does not take the input sizes {profile.shapes()}: {reasons()}")
    cache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    said = reasons()  # also raises the interrupt that came in these minutes
    if engine is None:
        raise RefusedError(f"TensorRT built no engine: {said}")
    return bytes(engine), bytes(config.get_timing_cache().serialize())


class EngineCache:
    """The engines of this user on this machine.

    Parameters
    ----------
    folder
        Folder of the engines; `default` uses the user's cache folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def default(cls) -> EngineCache:
        """Return the cache in `$XDG_CACHE_HOME/c3s3-seg/tensorrt`, by default under `~/.cache`.

        Raises
        ------
        InputError
            If there is no home folder and the variable is not set.
        """
        given = os.environ.get("XDG_CACHE_HOME")
        try:
            base = Path(given) if given else Path.home() / ".cache"
        except RuntimeError:
            todo = "Set XDG_CACHE_HOME to a folder that only you can write to"
            raise InputError("there is no home folder to keep engines in", todo=todo) from None
        return cls(base / "c3s3-seg" / "tensorrt")

    def engine(self, graph: bytes, profile: ShapeProfile) -> bytes:
        """Return the engine for this graph, GPU and TensorRT; build it, with a message, if none fits.

        Raises
        ------
        MissingError, RefusedError
            Same as in `CacheKey.here` and `build`.
        InputError
            If the folder cannot be written to or locked.
        """
        here = CacheKey.here(graph, profile)
        path = self.folder / here.file(profile.batch)
        content, _ = self._open(path, here)
        if content is not None:
            return content
        make_folder(self.folder)
        with hold(self.folder, wait=True):  # workers that start together need only one engine
            content, why = self._open(path, here)
            if content is not None:
                return content
            LOG.warning("building a TensorRT engine for %s, minutes, once: %s", here.gpu, why)
            return self._build(path, here, graph, profile)

    def _build(self, path: Path, here: CacheKey, graph: bytes, profile: ShapeProfile) -> bytes:
        timing = self.folder / "timing.cache"
        kept, _ = self._verified(timing)
        engine, times = build(graph, profile, kept or b"")
        self._hmac(path, json.dumps(asdict(here)).encode() + b"\n" + engine)
        with suppress(InputError):  # only the next build takes longer without
            self._hmac(timing, times)
        return engine

    def _open(self, path: Path, here: CacheKey) -> tuple[bytes | None, str]:
        """Return the engine, or None and the reason."""
        content, why = self._verified(path)
        if content is None:
            return None, why
        head, _, engine = content.partition(b"\n")
        try:
            misfit = CacheKey(**json.loads(head)).misfit(here)
        except (TypeError, ValueError, RecursionError):
            misfit = "another release of this program made it"
        return (None, misfit) if misfit else (engine, "")

    def _verified(self, path: Path) -> tuple[bytes | None, str]:
        """Return the content that was signed on this machine, or None and why a file is not trusted."""
        if not os.path.isfile(path):
            return None, "there is none yet"
        try:
            signed, key = read_regular(path, LARGEST_ENGINE), self._key()
        except InputError as error:
            return None, str(error)
        if key is None or not hmac.compare_digest(signed[:SIGNATURE], _sign(key, signed[SIGNATURE:])):
            return None, f"{path} was not made here, or is damaged"
        return signed[SIGNATURE:], ""

    def _hmac(self, path: Path, content: bytes) -> None:
        make_folder(self.folder)
        write_whole(path, _sign(self._key() or self._new_key(), content) + content)

    def _key(self) -> bytes | None:
        """Return the secret key of this folder; None if there is no whole key that only the user can read."""
        try:
            key = read_regular(self.folder / "key", SIGNATURE, _check_private)
        except InputError:  # another user who can read or write the key could sign engines
            return None
        return key if len(key) == SIGNATURE else None

    def _new_key(self) -> bytes:
        """Create the secret key while the folder is locked, so that no other process creates one."""
        path, key = self.folder / "key", secrets.token_bytes(SIGNATURE)
        try:
            path.unlink(missing_ok=True)  # an incomplete key of a process that was killed
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(key)
        except OSError as error:
            raise unwritten(f"cannot be written ({error.strerror or error})", path, error) from error
        return key


def _check_private(status: os.stat_result) -> None:
    """Raise if others than this user can access a file. Not on Windows, whose rights lie elsewhere."""
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
        raise InputError("wanted a file that only this user can read and write")


def _sign(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")
