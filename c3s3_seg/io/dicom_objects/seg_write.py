"""Write a mask as DICOM SEG, with highdicom, on the slices that the scan was read from.

highdicom maps plane n of the mask to source image n and does not sort, so the slices come from
`references.origin` in the order of their positions. The encoded file is read back, and each frame is
compared with the slice at its position, before the file is put in its place.
"""

from __future__ import annotations

from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid
from pydicom.valuerep import format_number_as_ds

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array, Volume
from c3s3_seg.io.dicom_objects.codes import LABEL_CIELAB, LABEL_MAP, SEGMENTATION, Maker, Segment, identity
from c3s3_seg.io.dicom_objects.common import SEXES, TYPE_2, date, set_character_set, stored_texts
from c3s3_seg.io.dicom_objects.references import Origin, origin
from c3s3_seg.system.files import write_whole
from c3s3_seg.version import __version__

# PS3.16, CID 7150: the category of everything that is an organ or a part of one.
CATEGORY = ("123037004", "SCT", "Anatomical Structure")
PLACE_MM = 1e-3  # how far a frame that was read back may lie off its slice: decimals are rounded


def write_seg(
    mask: Volume,
    path: Path,
    segments: tuple[Segment, ...],
    maker: Maker | None = None,
    *,
    labelmap: bool = False,
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
    write_whole(path, buffer.getvalue())


def _encode(
    source: Origin, planes: Array, segments: tuple[Segment, ...], maker: Maker, labelmap: bool
) -> Any:
    import highdicom

    images, planes = _images(source, planes)
    texts = stored_texts(images[0])
    kind = LABEL_MAP if labelmap else SEGMENTATION
    kinds = highdicom.seg.SegmentationTypeValues
    patient = _set_aside(images)
    # The same mask of the same slices by the same model, with the same labels, is the same instance.
    content = [str(labelmap), hash_of(planes), identity(segments)]
    seed = [images[0].SOPInstanceUID, maker.name, maker.serial, *content]
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
    # An attribute that highdicom copies is the same element in both data sets.
    copied = {tag for tag in texts if tag in made and made.get_item(tag) is images[0].get_item(tag)}
    for element in patient:
        made[element.tag] = element
        copied.add(element.tag)
    set_character_set(made, {tag: texts[tag] for tag in copied & set(texts)}, maker, segments)
    _name_dimensions(made, generate_uid(entropy_srcs=[*seed, "dimensions"]))
    date(made, images[0].get("TimezoneOffsetFromUTC"), maker)
    return made


def _name_dimensions(made: Any, uid: str) -> None:
    """Replace the random UID of the order of the frames, so that the same instance has the same bytes."""
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid


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
            segment_label=segment.name[:64],
            segmented_property_category=highdicom.sr.CodedConcept(*CATEGORY),
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


def _set_aside(images: list[Any]) -> list[Any]:
    """Return patient and study of the first image, and blank them in all images.

    highdicom quotes a name of one part in a warning, and a name of seven in a log; it does not support all
    character sets (ISO 2022 IR 87 beside the default one), and refuses dates that old files have.
    """
    first = images[0]
    patient = [deepcopy(first[keyword]) for keyword in (*TYPE_2, "SpecificCharacterSet") if keyword in first]
    for header in images:
        for keyword in TYPE_2:
            setattr(header, keyword, "")
        header.pop("SpecificCharacterSet", None)
    return patient


def hash_of(planes: Array) -> str:
    """Return the sha256 of an array."""
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(planes).data).hexdigest()


def _images(source: Origin, planes: Array) -> tuple[list[Any], Array]:
    """Return the source images for highdicom, and the planes in the order of these images."""
    for header in source.headers.values():
        for keyword in TYPE_2:  # a blank value is allowed, but highdicom requires the attribute
            if keyword not in header:
                setattr(header, keyword, "")
        if header.get("PatientSex") not in SEXES:
            header.PatientSex = ""
    if source.slices[0].frame is None:
        _share_geometry(source)
        for header in source.headers.values():
            _set_steps(source, header)
        return [source.header(item) for item in source.slices], planes
    if len(source.headers) > 1:
        raise InputError(
            "the scan lies in several enhanced files, to which one DICOM SEG cannot refer",
            where=source.slices[0].path.parent,
            todo="Write NIfTI (--format nii.gz)",
        )
    (image,) = source.headers.values()
    _set_steps(source, image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0])
    frames = np.zeros((int(image.NumberOfFrames), *planes.shape[1:]), dtype=planes.dtype)
    for item, plane in zip(source.slices, planes, strict=True):
        frames[item.frame] = plane
    return [image], frames


def _share_geometry(source: Origin) -> None:
    """Give all headers the directions and the spacing of the stack, from which they differ by rounding.

    highdicom requires the same values in all of them; the files are not changed.
    """
    common = {
        "ImageOrientationPatient": source.stack.turn[:, :2].T.ravel(),
        "PixelSpacing": source.stack.spacing_mm[::-1],
    }
    for keyword, values in common.items():
        if len({item.text(keyword) for item in source.slices}) > 1:
            for header in source.headers.values():
                setattr(header, keyword, [format_number_as_ds(float(v) + 0.0) for v in values])


def _set_steps(source: Origin, measures: Any) -> None:
    """Give a header the true distance of its slices, which the SEG repeats (PS3.3, C.7.6.16.2.1).

    In headers of scans the distance may be the gap between slices, negative, that of an earlier
    reconstruction, or missing. An invalid thickness becomes the mean step.
    """
    step = format_number_as_ds(source.stack.step_mm)
    measures.pop("SpacingBetweenSlices", None)
    if source.stack.even and source.stack.upright:
        measures.SpacingBetweenSlices = step
    try:
        thickness = float(measures.get("SliceThickness") or 0)
    except (TypeError, ValueError):  # `2,5`, or a word
        thickness = 0.0
    if not 0 < thickness < float("inf"):
        measures.SliceThickness = step


def _prove(content: bytes, source: Origin, planes: Array, path: Path) -> None:
    """Read the file back and check that each frame holds the mask at its position, and none is missing."""
    back = dcmread(BytesIO(content))
    pixels = back.pixel_array.reshape(-1, *planes.shape[1:])
    seen = np.zeros_like(planes)
    for frame, item in zip(pixels, back.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array([float(v) for v in item.PlanePositionSequence[0].ImagePositionPatient])
        distance = np.linalg.norm(source.stack.points_mm - place, axis=1)
        n = int(distance.argmin())
        if distance[n] > PLACE_MM:
            raise InputError("the DICOM SEG that was read back lies elsewhere", where=path)
        identified = item.get("SegmentIdentificationSequence")
        number = int(identified[0].ReferencedSegmentNumber) if identified else 1
        seen[n] = np.maximum(seen[n], frame * np.uint8(number))
    if not np.array_equal(seen, planes):
        raise InputError("the DICOM SEG that was read back differs from the mask", where=path)
