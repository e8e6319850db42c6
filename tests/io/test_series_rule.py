"""Tests of the rule of `--series`: its grammar, the series it selects, its refusals and its serialisation."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from helpers.command import run
from helpers.dicom_files import edit, values

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.reading import Reading, SeriesAttributes, SeriesRule, parse_series
from c3s3_seg.system.schema import dump, parse

LGE = SeriesAttributes(
    "LGE 3D [late], 2.5", "MR", ("tfl3d1_ns", "GR", "IR"), ("ORIGINAL", "PRIMARY", "M", "ND")
)


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ("modality=MR", True), ("modality=mr", True), ("modality=M", False), ("modality!=MR", False),
        ("modality=CT|MR", True), ("modality!=CT|PT", True),
        ("description~lge", True), ("description~ late ]", False), ("description~[late]", True),
        ("description~lge*2.5", True), ("description~l?e 3d", True), ("description~3d*lge", False),
        ("description=lge", False), ("description!~mip|loc", True), ("description!~mip|LGE", False),
        ("type=ORIGINAL", True), ("type=DERIVED", False), ("type!=DERIVED", True), ("type~prim", True),
        ("sequence~tfl", True), ("sequence=GR,sequence=IR", True), ("sequence=SE", False),
        (" Modality = MR , TYPE = original, description ~ lge", True),
        ("modality=MR,description~cine", False),
        ("description~*", True), ("description~" + "*?" * 60 + "x", False),
    ],
)  # fmt: skip
def test_what_a_rule_takes(rule: str, taken: bool) -> None:
    assert SeriesRule(rule).takes(LGE) is taken


def test_a_series_without_an_attribute_fits_no_equality_and_every_negation() -> None:
    assert not SeriesRule("sequence=GR").takes(SeriesAttributes())
    assert SeriesRule("sequence!=GR,description!~lge").takes(SeriesAttributes())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour=red", "there is no key 'colour', allowed: description, modality, sequence, type"),
        ("modality=", "'modality=' has no value"),
        ("description~lge||x", "has no value"),
        ("modality=MR,", "'' is no condition"),
        ("modality=MR,lge", "'lge' is no condition: wanted one of =, !=, ~, !~ after a key"),
        ("=MR", "there is no key ''"),
        (
            "lge",
            "wanted the number of a series in `c3s3-seg inspect`, its UID, or a rule such as modality=MR",
        ),
        ("", "wanted the number"),
        ("description~" + "x" * 500, "a series rule of up to 500 characters"),
    ],
)
def test_what_is_no_series_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_series(text)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_numbers_and_uids_are_no_rules() -> None:
    assert parse_series(None) is None
    assert [parse_series(text) for text in ("3", " 1.2.840.1 ", "1.2#echo 2", "1.2#b=7", "#echo 2")] == [
        "3", "1.2.840.1", "1.2#echo 2", "1.2#b=7", "#echo 2",
    ]  # fmt: skip


def test_a_rule_travels_as_its_text() -> None:
    reading = Reading(SeriesRule("modality=MR"), rule=SeriesRule("type=ORIGINAL"))
    assert dump(reading)["series"] == "modality=MR"  # the form in a manifest
    sent = json.loads(json.dumps(asdict(reading), default=sorted))
    assert parse(Reading, sent, "a worker") == reading
    assert parse(Reading, {"rule": "modality=MR"}, "a manifest").rule == SeriesRule("modality=MR")
    assert parse(Reading, {"series": "3"}, "a worker").series == "3"


@pytest.fixture
def study(oblique: Volume, tmp_path: Path) -> Path:
    for number, name in enumerate(("LGE 3D", "cine"), 1):
        for path in save_series(oblique, tmp_path / "study" / name, description=name, seed_uid=name):
            edit(path, values(SeriesNumber=str(number), ImageType=["ORIGINAL", "PRIMARY"]))
    return tmp_path / "study"


def test_python_takes_the_same_words(study: Path) -> None:
    assert load(study, series="description~lge").source.path == study
    with pytest.raises(InputError, match="there is no key 'colour'"):
        load(study, series="colour=red")


def test_inspect_says_which_series_a_rule_takes_and_why_not_the_others(study: Path) -> None:
    answer = run("inspect", study, "--series", "description~lge,type=original", "--json")
    assert answer.returncode == 0, answer.stderr
    lge, cine = json.loads(answer.stdout)
    assert (lge["verdict"], lge["readable"]) == ("volume", True)
    assert (cine["verdict"], cine["readable"]) == ("not asked for", False)
    assert cine["remarks"] == ["it does not fit 'description~lge'"]
    by_number = json.loads(run("inspect", study, "--series", 2, "--json").stdout)
    assert [row["verdict"] for row in by_number] == ["not asked for", "volume"]
    assert run("inspect", study, "--series", "modality=CT").returncode == 1
    nothing = run("inspect", study, "--series", 7)
    assert nothing.returncode == 2
    assert "there is no series '7'" in nothing.stderr
    wrong = run("inspect", study, "--series", "colour=red")
    assert wrong.returncode == 2
    assert "allowed: description, modality, sequence, type" in " ".join(wrong.stderr.split())


def test_a_protocol_is_compared_in_its_character_set(oblique: Volume, tmp_path: Path) -> None:
    """Its name was read as Latin-1, so that a rule took the series that it excludes."""
    for path in save_series(oblique, tmp_path / "s", description="", seed_uid="a"):
        edit(path, values(SpecificCharacterSet="ISO_IR 192", ProtocolName="Schädel", SequenceName="tfl"))
    for rule in ("sequence~Schädel", "sequence=schädel,sequence=tfl"):
        assert np.array_equal(load(tmp_path / "s", series=rule).array, oblique.array)
    with pytest.raises(InputError, match="found 0 series that fit the rule"):
        load(tmp_path / "s", series="sequence!~Schädel")
