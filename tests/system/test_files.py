import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.system.csv_table import csv_bytes
from c3s3_seg.system.files import check_output_file
from c3s3_seg.system.names import PlainName, plain_name, printable
from c3s3_seg.system.reading import parse_json, read_json, read_regular
from c3s3_seg.system.schema import closed, dump, parse


def test_a_name_becomes_one_line() -> None:
    assert printable("ünïcode 心房") == "ünïcode 心房"
    assert printable("two\nlines\t\x1b[31m") == "two\\nlines\\t\\x1b[31m"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\udce9"


BAD_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/x",
    "a\\b",
    "a\nb",
    "a\x00",
    "\x1b[31m",
    "n" * 256,
    "ü" * 128,
]


@closed
@dataclass(frozen=True)
class Named:
    name: PlainName


@pytest.mark.parametrize("text", BAD_NAMES)
def test_a_name_cannot_point_out_of_its_folder(text: str) -> None:
    with pytest.raises(ConfigError, match=r"name = .*: wanted a "):
        parse(Named, {"name": text}, "x.json")
    with pytest.raises(InputError, match=r"the case .*: wanted a "):
        plain_name(text, "the case", "x.json")


@pytest.mark.parametrize("text", ["case 1", "...", "a..b", "心房", "n" * 255, "-x", "$x"])
def test_a_plain_name_is_a_string(text: str) -> None:
    named = parse(Named, {"name": text}, "x.json")
    assert named.name == text
    assert dump(named) == {"name": text}


@pytest.mark.timeout(10)
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="wanted a regular file"):
            read_regular(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_regular(tmp_path / "absent")
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(InputError, match="larger than 10 bytes"):
        read_regular(tmp_path / "large", 10)
    assert read_regular(tmp_path / "large", 11) == b"x" * 11


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "", "\xff"])
def test_json_that_is_none_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"x\.json: cannot be read as JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match="here: cannot be read as JSON"):
        parse_json(text.encode("latin-1"), "here")


def test_where_a_file_will_be_written_is_looked_at_first(tmp_path: Path) -> None:
    check_output_file(tmp_path / "new" / "x.toml")
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "x.toml", tmp_path / ("n" * 300)):
        with pytest.raises(InputError):
            check_output_file(path)


DANGEROUS = ["=1+1", "+A1", "-A1", "@SUM(A1)", "-1+cmd|' /C calc'!A0", "=\t1", " =1", "\uff1d1", "-"]


@pytest.mark.parametrize("text", DANGEROUS)
def test_a_cell_that_begins_a_formula_is_text(text: str) -> None:
    (line,) = csv.reader(io.StringIO(csv_bytes([[text, 1]]).decode()))
    assert line == [f"'{printable(text)}", "1"]


@pytest.mark.parametrize("text", ["\t=1", "\r=1", "\x1b[31mred", "a\nb", "\x00", "\u202etxt.exe"])
def test_a_cell_holds_no_control_characters(text: str) -> None:
    content = csv_bytes([[text]]).decode()
    assert content == f"{printable(text)}\n"
    assert content[:-1].isprintable()


def test_numbers_stay_numbers() -> None:
    numbers = ["-1.5", "+2", "1e-3", "-.5", "inf", "-inf", "nan", -1.5, 0, float("-inf"), float("nan"), ""]
    (line,) = csv.reader(io.StringIO(csv_bytes([numbers]).decode()))
    assert line == ["-1.5", "+2", "1e-3", "-.5", "inf", "-inf", "nan", "-1.5", "0", "-inf", "nan", ""]
    (line,) = csv.reader(io.StringIO(csv_bytes([["a,b", 'say "x"', "心房"]]).decode()))
    assert line == ["a,b", 'say "x"', "心房"]


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    """Of duplicate keys, Python takes the last one, other readers the first."""
    (tmp_path / "x.json").write_text('{"labels": {"a": 1, "a": 2}}')
    with pytest.raises(InputError, match=r"x\.json: has the key 'a' twice"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"labels": {"a": 1, "A": 2}, "a": 3}')
    assert read_json(tmp_path / "x.json") == {"labels": {"a": 1, "A": 2}, "a": 3}
