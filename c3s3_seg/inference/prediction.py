"""What the segmentation of one scan gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.domain_check import DomainCheck
from c3s3_seg.inference.tiling import Shape
from c3s3_seg.inference.uncertainty import Disagreement


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in one scan.

    Parameters
    ----------
    mask
        Label values in the scan's own geometry, uint8.
    volume_ml
        Label name -> volume in millilitres.
    seconds
        Of wall clock, per step: `prepare`, `network`, `to_scan_grid`.
    tiles
        How many tiles the network saw.
    probabilities
        Label name -> float32 volume in the scan's geometry; empty unless asked for.
    tile
        Voxels (x, y, z) of a tile.
    postprocessed
        Label name -> what was done to its mask, in ml; without the labels that stayed as they were.
    check
        The domain check of the scan, and the region that was segmented.
    remarks
        What else the reader of the result should know, as sentences; see `notes`.
    uncertainty
        How far the bundle's networks differ; None unless asked for.
    mask_warnings
        Those of the remarks that speak against the mask: of its volumes, and of the networks' agreement.
    """

    mask: Volume
    volume_ml: dict[str, float]
    seconds: dict[str, float]
    tiles: int
    probabilities: dict[str, Volume]
    tile: Shape = (0, 0, 0)
    postprocessed: dict[str, dict[str, float]] = field(default_factory=dict)
    check: DomainCheck = field(default_factory=DomainCheck)
    remarks: tuple[str, ...] = ()
    uncertainty: Disagreement | None = None
    mask_warnings: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of the result should know, a sentence each; the domain check comes first."""
        return (*self.check.remarks, *self.remarks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the notes that speak against the result; how it was made is not among them."""
        result = self.check.result
        return (*result.refusals, *result.warnings, *self.mask_warnings)

    @property
    def empty(self) -> bool:
        """Whether no voxel has a label: nothing was found."""
        return not any(self.volume_ml.values())

    def __repr__(self) -> str:
        volumes = ", ".join(f"{name}={volume:.1f} ml" for name, volume in self.volume_ml.items())
        return (
            f"Prediction({volumes}, shape={self.mask.geometry.shape}, check={self.check.level},"
            f" notes={len(self.notes)})"
        )
