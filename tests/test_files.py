import os

from c3s3_seg.files import printable


def test_a_name_becomes_one_line() -> None:
    assert printable("ünïcode 心房") == "ünïcode 心房"
    assert printable("two\nlines\t\x1b[31m") == "two\\nlines\\t\\x1b[31m"
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\udce9"
