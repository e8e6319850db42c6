"""The table of findings and the line below it."""

import io

from rich.console import Console

from c3s3_seg.report.findings import Finding, by_severity, counted, findings_table, summary


def finding(severity: str, check: str = "volume", case: str = "a") -> Finding:
    return Finding(severity, check, (case,), "it is [red]big[/red]", "small", "shrink it")  # type: ignore[arg-type]


def shown(findings: list[Finding]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=140).print(findings_table(findings))
    return stream.getvalue()


def test_errors_come_first() -> None:
    mixed = [finding("info"), finding("warning", "b"), finding("error"), finding("warning", "a")]
    assert [(f.severity, f.check) for f in by_severity(mixed)] == [
        ("error", "volume"),
        ("warning", "a"),
        ("warning", "b"),
        ("info", "volume"),
    ]


def test_the_table_shows_text_as_it_stands() -> None:
    text = shown([finding("error", case="[bold]x")])
    assert "[bold]x" in text
    assert "[red]big[/red]" in text


def test_many_of_one_kind_are_one_line() -> None:
    few, many = ([finding("warning", case=f"case-{n}") for n in range(count)] for count in (5, 6))
    assert all(f"case-{n}" in shown(few) for n in range(5))
    assert all(words in shown(many) for words in ("case-0,", "case-1", "4 more"))
    assert "6 times, first:" in " ".join(shown(many).split())
    assert "case-5" not in shown(many)


def test_the_last_line() -> None:
    assert summary(80, []) == "80 cases examined, nothing found"
    assert summary(80, [finding("info")]) == "80 cases examined, nothing found (1 info)"
    found = [finding("error"), finding("error"), finding("warning"), finding("info"), finding("info")]
    assert summary(3, found) == "3 cases examined, 2 errors, 1 warning (2 info)"
    assert counted([]) == ""
