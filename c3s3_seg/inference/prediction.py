"""The result of the segmentation of one scan."""

from __future__ import annotations

from dataclasses import dataclass, field

from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.domain_check import DomainCheck
from c3s3_seg.inference.tiling import Shape
from c3s3_seg.inference.uncertainty import Disagreement


@dataclass(frozen=True, eq=False)
class Prediction:
    """The mask of one scan, with its volumes and notes.

    Parameters
    ----------
    mask
        Label values in the scan's own geometry, uint8.
    volume_ml
        Label name -> volume in millilitres.
    seconds
        Wall-clock time per step: `prepare`, `network`, `to_scan_grid`.
    tiles
        Number of tiles that the network ran on.
    probabilities
        Label name -> float32 volume in the scan's geometry; empty unless requested.
    tile
        Voxels (x, y, z) of a tile.
    postprocessed
        Label name -> changes to its mask, in ml; without the labels that did not change.
    check
        The domain check of the scan, and the region that was segmented.
    remarks
        Further sentences for the reader of the result; see `notes`.
    uncertainty
        Disagreement of the bundle's networks; None unless requested.
    mask_warnings
        Remarks that question the mask: about its volumes, and about the networks' agreement.
    labels
        Label name -> its value in the mask.
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
    labels: dict[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the reader of the result; those of the domain check come first."""
        return (*self.check.remarks, *self.remarks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes that question the result; those about how it was made are not included."""
        return (*self.check.result.sentences, *self.mask_warnings)

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
