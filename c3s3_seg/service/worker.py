"""A worker process: it opens the model once, takes studies as JSON lines on stdin, answers on stdout.

    python -m c3s3_seg.service.worker

The worker is a separate process so that a lack of memory, or a crash in a library, ends an attempt and not
the service. If the system must kill a process for lack of memory, it should choose the worker.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from c3s3_seg.batch.job import Job, Model
from c3s3_seg.errors import C3S3Error, as_c3s3_error
from c3s3_seg.service.segment import SegmentedStudy, SegmentTask, problem_of, segment
from c3s3_seg.system.libraries import leave_out_unused
from c3s3_seg.system.process import quiet_libraries, reply, take_stdout
from c3s3_seg.system.process_pool import follow_parent
from c3s3_seg.system.schema import parse, plain

WHERE = "the line from the service that started this worker"
FIRST_TO_END = b"600"  # oom_score_adj, up to 1000


def main() -> None:
    """Segment studies until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group: the service decides
        signal.signal(number, signal.SIG_IGN)
    follow_parent()
    with suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_bytes(FIRST_TO_END)
    quiet_libraries()
    leave_out_unused()
    replies = take_stdout()
    setup = json.loads(sys.stdin.readline())
    job = parse(Job, setup["job"], WHERE)
    try:
        predictor, origin = parse(Model, setup["model"], WHERE).open()
    except C3S3Error as error:
        reply(replies, refused=asdict(problem_of(as_c3s3_error(error))))
        return
    reply(replies, ready=True)
    for line in sys.stdin:
        task = parse(SegmentTask, json.loads(line), WHERE)
        try:
            study = segment(task, predictor, replace(job, origin=origin))
        except Exception as error:  # a defect, or lack of memory: a failed attempt
            study = SegmentedStudy(problems=(problem_of(as_c3s3_error(error, quote=False)),))
        reply(replies, study=plain(asdict(study)))


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)
