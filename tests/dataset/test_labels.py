"""Tests of labels: parsing, agreement between masks, and refusals."""

from pathlib import Path

import pytest

from c3s3_seg.dataset.labels import Labels, agreed
from c3s3_seg.dataset.prepare.assemble import PrepareSettings, labels_of
from c3s3_seg.dataset.prepare.inventory import Inventory, Mask, Part
from c3s3_seg.errors import InputError
from c3s3_seg.io.dicom_objects.segmentation import Drawing


def values(*found: int) -> Mask:
    return Mask(Part("image", "m", (Path("m"),)), None, found)


def names(*found: str) -> Mask:
    drawing = Drawing(Path("seg"), "dicom-seg", frozenset(), frozenset(), found)
    return Mask(Part("drawing", "seg", (Path("seg"),), drawing=drawing))


def test_the_first_name_of_a_value_is_its_label() -> None:
    labels = Labels.parse("tumour = 2,liver=1,Leber=1,a=b=7")
    assert labels.named == {"liver": 1, "tumour": 2, "a=b": 7}
    labels.check_values((0, 1, 2))
    with pytest.raises(InputError, match="it holds the value 3, which no label has"):
        labels.check_values((0, 1, 2, 4, 3))


@pytest.mark.parametrize("text", ["", "liver", "liver=0", "liver=x", "=1", "liver=70000"])
def test_what_is_no_label(text: str) -> None:
    with pytest.raises(InputError, match="wanted NAME=VALUE"):
        Labels.parse(text)


def test_a_name_comes_once() -> None:
    with pytest.raises(InputError, match="found the label 'liver' twice"):
        Labels.parse("liver=1,tumour=3, liver=2")


@pytest.mark.parametrize("text", ["Liver=1,liver=2", "H\u00fcfte=1,Hu\u0308fte=2"])
def test_names_that_a_bundle_does_not_tell_apart(text: str) -> None:
    with pytest.raises(InputError, match="differ in upper and lower case alone"):
        Labels.parse(text)
    first, second = (item.partition("=")[0] for item in text.split(","))
    with pytest.raises(InputError, match="differ in upper and lower case alone"):
        agreed(None, [names(first, second)])
    assert Labels.parse(text.replace("=2", "=1")).named == {first: 1}


def test_a_drawing_must_hold_every_label_under_one_of_its_names() -> None:
    labels = Labels.parse("liver=1,Leber=1,tumour=2")
    drawing = names("LEBER", "Tumour", "couch").part.drawing
    assert drawing is not None
    assert labels.of_names(drawing.names, drawing.path) == {"LEBER": 1, "Tumour": 2}
    short = names("liver", "couch").part.drawing
    assert short is not None
    with pytest.raises(InputError, match="named 'tumour'; it holds 'liver', 'couch'"):
        labels.of_names(short.names, short.path)


def test_what_masks_agree_on() -> None:
    given = Labels.parse("x=5")
    assert agreed(given, [values(1), names("a")]) is given
    assert agreed(None, [names("b", "a"), names("a", "b")]).named == {"b": 1, "a": 2}
    assert agreed(None, [values(1), values(1, 3), values()]).named == {"label_1": 1, "label_3": 3}
    assert agreed(None, []).named == {}


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([values(1), values(1), values(255)], r"the same values: \[1\] in 2; \[255\] in 1"),
        ([values(1, 2), values(1, 3)], "the same values"),
        ([names("a"), names("a", "b")], "the same labels: 1 with"),
        ([names("a"), values(1)], "1 masks have names for their labels, and 1 have values alone"),
    ],
)
def test_what_they_do_not_agree_on(masks: list[Mask], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        agreed(None, masks)
    assert "--labels" in str(error.value)


def test_a_label_given_on_the_command_line_is_a_plain_name() -> None:
    """If a value has several names, the first is the label's; the others are names in drawings."""
    settings = PrepareSettings(labels=Labels.parse("../x=1"))
    with pytest.raises(InputError, match=r"the label '\.\./x': wanted a plain file name"):
        labels_of(Inventory(()), settings)
    several = PrepareSettings(labels=Labels.parse("lung=1,Lung/left=1"))
    assert labels_of(Inventory(()), several).named == {"lung": 1}


@pytest.mark.parametrize("name", ["Background", "background", "BACKGROUND"])
def test_a_label_called_as_the_background_is_refused(name: str) -> None:
    """The index was written after the whole conversion, and nothing could read it."""
    with pytest.raises(InputError, match=f"a label has the name '{name}'.*--labels"):
        labels_of(Inventory((), labels={name: 1, "organ": 2}), PrepareSettings())
    remedy = PrepareSettings(labels=Labels.parse("organ=2"))
    assert labels_of(Inventory((), labels={name: 1, "organ": 2}), remedy).named == {"organ": 2}
