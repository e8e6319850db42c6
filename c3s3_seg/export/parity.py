"""Differences of an exported network from torch, and their limits.

The mask and its boundary matter, so besides the largest difference of a probability there are the
flipped voxels and Dice, 95HD, ASD and NSD between the two masks. `compare` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ParityLimits:
    """The largest differences that an export may have.

    Parameters
    ----------
    difference
        Largest difference of a probability, anywhere.
    flipped
        Share of voxels whose label may change: ties within rounding. One voxel always may.
    dice, nsd
        Least overlap of the two masks, and least share of their surfaces within half a voxel.
    hd95_vox, asd_vox
        Largest distances between the two surfaces, in units of the smallest voxel side.
    """

    difference: float
    flipped: float
    dice: float
    nsd: float
    hd95_vox: float
    asd_vox: float


# Measured on real scans, see docs/export.md: differences of up to 2.7e-6 in single precision and 2.0e-3 in
# half. A 95HD of 0 allows at most 5 % of a boundary to move. NSD in half precision is tightest: the worst
# scan has 0.9985.
LIMITS = {
    "float32": ParityLimits(
        difference=1e-3, flipped=1e-5, dice=0.9999, nsd=0.9999, hd95_vox=0.0, asd_vox=1e-3
    ),
    "float16": ParityLimits(difference=5e-2, flipped=5e-4, dice=0.998, nsd=0.995, hd95_vox=0.0, asd_vox=1e-2),
}


@dataclass(frozen=True)
class ScanParity:
    """The differences between two masks of one scan, for the worst label.

    Parameters
    ----------
    difference
        Largest |difference| of a probability on the scan's grid.
    flipped, voxels, labelled
        Number of voxels whose label differs, of all voxels, and of voxels that torch gave a label.
    dice, hd95_mm, asd_mm, nsd
        Scores between the masks; NSD at half of the smallest voxel side. Both masks empty: 1, 0, 0, 1.
    voxel_mm
        Smallest voxel side.
    """

    difference: float
    flipped: int
    voxels: int
    labelled: int
    dice: float
    hd95_mm: float
    asd_mm: float
    nsd: float
    voxel_mm: float

    def beyond(self, limits: ParityLimits) -> Iterator[str]:
        """Yield the numbers that exceed the limits, in words."""
        if self.difference > limits.difference:
            yield f"a probability differs by {self.difference:.1e} (limit {limits.difference:.0e})"
        few = max(1, int(limits.flipped * self.voxels))
        if self.flipped > few:
            yield f"{self.flipped} of {self.voxels} voxels have another label (limit {few})"
        if self.flipped <= 1:  # in a small mask one voxel may exceed these limits
            return
        if self.dice < limits.dice:
            yield f"Dice between the masks is {self.dice:.5f} (limit {limits.dice:g})"
        if self.nsd < limits.nsd:
            yield f"NSD at half a voxel is {self.nsd:.5f} (limit {limits.nsd:g})"
        for name, found, limit in (
            ("95HD", self.hd95_mm, limits.hd95_vox * self.voxel_mm),
            ("ASD", self.asd_mm, limits.asd_vox * self.voxel_mm),
        ):
            if found > limit:
                yield f"{name} between the masks is {found:.4f} mm (limit {limit:.4f})"


@dataclass(frozen=True)
class Parity:
    """The differences of an exported network from torch.

    Parameters
    ----------
    precision
        Precision whose limits apply.
    runtime
        Runtime that ran the export.
    patches, voxels
        Number of patches, and of their voxels, that were compared.
    difference
        Largest |difference| of a probability on patches.
    flipped
        Number of voxels of the patches whose most probable class differs.
    scans
        Comparison on each whole scan.
    """

    precision: str
    runtime: str
    patches: int
    voxels: int
    difference: float
    flipped: int
    scans: tuple[ScanParity, ...]

    @property
    def faults(self) -> tuple[str, ...]:
        """The numbers beyond the limits of this precision, in words; empty if the export is good."""
        limits = LIMITS[self.precision]
        found = []
        if self.difference > limits.difference:
            found.append(
                f"on patches a probability differs by {self.difference:.1e} (limit {limits.difference:.0e})"
            )
        few = max(1, int(limits.flipped * self.voxels))
        if self.flipped > few:
            found.append(
                f"on patches {self.flipped} of {self.voxels} voxels have another label (limit {few})"
            )
        for number, scan in enumerate(self.scans, start=1):
            found += [f"on scan {number} {fault}" for fault in scan.beyond(limits)]
        return tuple(found)

    @property
    def holds(self) -> bool:
        """Whether everything is within its limits."""
        return not self.faults

    @property
    def worst(self) -> ScanParity:
        """The worst value of each number over all scans; voxels, labelled and flipped voxels are sums."""
        scans = self.scans
        return ScanParity(
            difference=max(s.difference for s in scans),
            flipped=sum(s.flipped for s in scans),
            voxels=sum(s.voxels for s in scans),
            labelled=sum(s.labelled for s in scans),
            dice=min(s.dice for s in scans),
            hd95_mm=max(s.hd95_mm for s in scans),
            asd_mm=max(s.asd_mm for s in scans),
            nsd=min(s.nsd for s in scans),
            voxel_mm=min(s.voxel_mm for s in scans),
        )

    def __str__(self) -> str:
        worst = self.worst
        empty = "" if worst.labelled else "; but torch found nothing there, so prove more with --check SCAN"
        return (
            f"{self.patches} patches, largest difference of a probability {self.difference:.1e},"
            f" {self.flipped} of {self.voxels} voxels with another label; {len(self.scans)} whole scan(s),"
            f" {worst.flipped} of {worst.voxels} voxels with another label, Dice {worst.dice:.5f},"
            f" 95HD {worst.hd95_mm:.3f} mm, ASD {worst.asd_mm:.5f} mm, NSD {worst.nsd:.5f}{empty}"
        )
