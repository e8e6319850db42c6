"""Importing this package starts no fork and opens no connection."""

import subprocess
import sys

CODE = """
import os, socket, sys
forks = []
os.register_at_fork(before=lambda: forks.append(1))
class Refused(socket.socket):
    def connect(self, *where):
        forks.append(where)
socket.socket = Refused
{first}
import openvino, time
time.sleep(0.3)
print(len(forks))
"""


def count(first: str) -> int:
    command = [sys.executable, "-c", CODE.format(first=first)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(answer.stdout.split()[-1])


def test_openvino_reports_nothing() -> None:
    assert count("import c3s3_seg.inference") == 0
