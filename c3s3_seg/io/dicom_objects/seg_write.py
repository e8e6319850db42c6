"""Write a mask as DICOM SEG, with highdicom, on the slices that the scan was read from.

highdicom maps plane n of the mask to source image n and does not sort, so the slices come from
`references.origin` in the order of their positions. The encoded file is read back, and each frame is
compared with the slice at its position, before the file is put in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array, Volume
from c3s3_seg.io.dicom_objects.codes import (
    ANATOMY,
    LABEL_CIELAB,
    LABEL_MAP,
    SEGMENTATION,
    Maker,
    Segment,
    identity,
)
from c3s3_seg.io.dicom_objects.common import (
    date,
    owner_of,
    set_character_set,
    state_source_loss,
    stored_texts,
)
from c3s3_seg.io.dicom_objects.references import Origin, origin
from c3s3_seg.io.dicom_objects.seg_source import set_aside, source_images
from c3s3_seg.system.files import write_whole
from c3s3_seg.version import __version__

READ_BACK_MM = 1e-3  # how far a frame that was read back may lie off its slice: decimals are rounded


def write_seg(
    mask: Volume,
    path: Path,
    segments: tuple[Segment, ...],
    maker: Maker | None = None,
    *,
    labelmap: bool = False,
    ready: Callable[[Path], None] | None = None,
) -> None:
    """Write a mask as DICOM SEG.

    Parameters
    ----------
    mask
        Labels (i, j, k), as predicted from a DICOM series.
    path
        The file; it is replaced if it is there.
    segments
        The labels; each becomes a segment, numbered from 1 in this order.
    maker
        Program and model that made the mask.
    labelmap
        Whether to write one frame per slice with all labels, RLE-compressed (PS3.3, A.51, since 2023),
        instead of a bit for each segment. Many servers do not accept it yet.
    ready
        Same as in `save`.

    Raises
    ------
    InputError
        If the scan is not a DICOM series, its slices have no UIDs or unusable headers, or the file cannot be
        written or differs when it is read back.
    """
    with origin(mask.source) as source:
        numbered = np.zeros((len(source.slices), *source.size[::-1]), dtype=np.uint8)
        for n in range(len(source.slices)):
            plane = source.plane(mask, n)
            for number, segment in enumerate(segments, 1):
                numbered[n][plane == segment.value] = number
        try:
            data = _encode(source, numbered, segments, maker or Maker(), labelmap)
            if labelmap:
                # highdicom would use GDCM's encoder, which ends the program on frames of 35 x 51 pixels.
                data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # highdicom refuses values outside the standard; they are not repeated
            raise InputError(
                f"the headers of the series cannot be carried into a DICOM SEG ({type(error).__name__})",
                where=mask.source.path,
                todo="Write NIfTI (--format nii.gz), or have the series sent again",
            ) from error
        buffer = BytesIO()
        data.save_as(buffer, enforce_file_format=True)
        _prove(buffer.getvalue(), source, numbered, path)
    write_whole(path, buffer.getvalue(), ready)


def _encode(
    source: Origin, planes: Array, segments: tuple[Segment, ...], maker: Maker, labelmap: bool
) -> Any:
    import highdicom

    texts = stored_texts(source.header(source.slices[0]))
    owner = owner_of(source)  # before the headers are changed
    images, planes = source_images(source, planes)
    kind = LABEL_MAP if labelmap else SEGMENTATION
    kinds = highdicom.seg.SegmentationTypeValues
    patient = set_aside(images)
    # The same mask of the same slices of a patient by the same model and labels is the same instance.
    content = [str(labelmap), hash_of(planes), identity(segments)]
    seed = [owner, maker.name, maker.serial, *content]
    made = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=planes,
        segmentation_type=kinds.LABELMAP if labelmap else kinds.BINARY,
        segment_descriptions=_described(segments, maker),
        series_instance_uid=generate_uid(entropy_srcs=[*seed, "series"]),
        series_number=kind.number(images[0].get("SeriesNumber")),
        sop_instance_uid=generate_uid(entropy_srcs=[*seed, "instance"]),
        instance_number=1,
        manufacturer="c3s3-seg",
        manufacturer_model_name=maker.name[:64],
        software_versions=__version__,
        device_serial_number=maker.serial[:64],
        content_label="SEGMENTATION",
        content_description="Research use only",
        series_description=kind.description(maker),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=bool(planes.any()),
    )
    # highdicom copies all of patient and study, also remarks: the same elements in both data sets.
    for tag in [tag for tag in made.keys() if made.get_item(tag) is images[0].get_item(tag)]:  # noqa: SIM118
        del made[tag]
    for element in patient:
        made[element.tag] = element
    repeated = {element.tag for element in patient}
    set_character_set(made, {tag: texts[tag] for tag in repeated & set(texts)}, maker, segments)
    state_source_loss(made, source)
    _name_frames(made, source)
    _name_dimensions(made, generate_uid(entropy_srcs=[*seed, "dimensions"]))
    date(made, images[0].get("TimezoneOffsetFromUTC"), maker)
    return made


def _name_dimensions(made: Any, uid: str) -> None:
    """Replace the random UID of the order of the frames, so that the same instance has the same bytes."""
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


def _name_frames(made: Any, source: Origin) -> None:
    """Replace the numbers of frames in the reduced header by those in the file."""
    for group in made.PerFrameFunctionalGroupsSequence:
        frame = source.slices[_number_of(group, source)[0]].frame
        if frame is None:
            continue
        for derivation in group.get("DerivationImageSequence") or ():
            for image in derivation.SourceImageSequence:
                image.ReferencedFrameNumber = frame + 1


def _number_of(group: Any, source: Origin) -> tuple[int, float]:
    """Return the number of the slice that a frame of a SEG lies on, and how far off it lies in mm."""
    place = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
    distance = np.linalg.norm(source.stack.points_mm - place, axis=1)
    n = int(distance.argmin())
    return n, float(distance[n])


def _described(segments: tuple[Segment, ...], maker: Maker) -> list[Any]:
    """Return the segments as highdicom requires them: code, colour, and the algorithm."""
    import highdicom

    family = highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    identity = highdicom.AlgorithmIdentificationSequence(f"c3s3-seg {maker.name}"[:64], family, __version__)
    described = []
    for number, segment in enumerate(segments, 1):
        colour = LABEL_CIELAB[(number - 1) % len(LABEL_CIELAB)]
        item = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.stored_name,
            segmented_property_category=highdicom.sr.CodedConcept(*(segment.category or ANATOMY)),
            segmented_property_type=highdicom.sr.CodedConcept(*segment.coded),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identity,
            display_color=highdicom.color.CIELabColor(*map(float, colour)),
        )
        if segment.modifier is not None:  # PS3.3, C.8.20.4.1
            part = highdicom.sr.CodedConcept(*segment.modifier)
            (code,) = item.SegmentedPropertyTypeCodeSequence
            code.SegmentedPropertyTypeModifierCodeSequence = [part]
        described.append(item)
    return described


def hash_of(planes: Array) -> str:
    """Return the sha256 of an array."""
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(planes).data).hexdigest()


def _prove(content: bytes, source: Origin, planes: Array, path: Path) -> None:
    """Read the file back and check that each frame holds the mask at its position, and none is missing."""
    back = dcmread(BytesIO(content))
    pixels = back.pixel_array.reshape(-1, *planes.shape[1:])
    seen = np.zeros_like(planes)
    for frame, item in zip(pixels, back.PerFrameFunctionalGroupsSequence, strict=True):
        n, off_mm = _number_of(item, source)
        if off_mm > READ_BACK_MM:
            raise InputError("the DICOM SEG that was read back lies elsewhere", where=path)
        identified = item.get("SegmentIdentificationSequence")
        number = int(identified[0].ReferencedSegmentNumber) if identified else 1
        seen[n] = np.maximum(seen[n], frame * np.uint8(number))
    if not np.array_equal(seen, planes):
        raise InputError("the DICOM SEG that was read back differs from the mask", where=path)
