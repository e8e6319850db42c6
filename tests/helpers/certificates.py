"""Self-signed certificates for servers and clients on loopback."""

import shutil
import subprocess
from pathlib import Path

import pytest


def certificates(folder: Path, *names: str) -> None:
    """Write `NAME.pem` and `NAME.key` for each name, and both in `NAME.both`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    for name in names:
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", f"{name}.key", "-out", f"{name}.pem"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
        both = (folder / f"{name}.pem").read_bytes() + (folder / f"{name}.key").read_bytes()
        (folder / f"{name}.both").write_bytes(both)
