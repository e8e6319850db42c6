"""A worker process that opens the model once, takes cases as JSON lines on stdin and answers on stdout.

    python -m c3s3_seg.batch.worker

Nothing is pickled, and the output of libraries goes to stderr, never between the answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace

from c3s3_seg.batch.executor import in_this_process
from c3s3_seg.batch.job import CaseTask, Job, Model
from c3s3_seg.batch.records import Refusal
from c3s3_seg.errors import C3S3Error, as_c3s3_error, is_out_of_memory
from c3s3_seg.system.libraries import leave_out_unused
from c3s3_seg.system.process import quiet_libraries, reply, take_stdout
from c3s3_seg.system.process_pool import follow_parent
from c3s3_seg.system.schema import parse

WHERE = "the line from the program that started this worker"


def main() -> None:
    """Process cases until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent decides
    follow_parent()
    quiet_libraries()
    leave_out_unused()
    replies = take_stdout()
    setup = json.loads(sys.stdin.readline())
    job = parse(Job, setup["job"], WHERE)
    try:
        predictor, origin = parse(Model, setup["model"], WHERE).open()
    except Exception as error:
        if not isinstance(error, C3S3Error | RuntimeError) and not is_out_of_memory(error):
            raise
        reply(replies, refused=asdict(Refusal.of(as_c3s3_error(error), "open")))
        return
    reply(replies, origin=origin)
    run = in_this_process(predictor, replace(job, origin=origin), overlap=setup["overlap"])
    for outcome in run(_tasks()):
        reply(replies, outcome=asdict(outcome))


def _tasks() -> Iterator[CaseTask]:
    for line in sys.stdin:
        yield parse(CaseTask, json.loads(line), WHERE)


if __name__ == "__main__":
    main()
    # Every file is closed and every answer sent; tearing down the runtime would take 0.15 s more.
    sys.stderr.flush()
    os._exit(0)
