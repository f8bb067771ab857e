"""What a worker process runs, as the supervisor names it.

Apart, and with an import inside: the supervisor only names it, and would hold the whole data plane
for that name, which costs each start of `fastlb run` 25 ms and some MB.
"""

from __future__ import annotations

from fastlb.target_table.pipe import WorkerStart


def worker_main(start: WorkerStart) -> None:
    """The worker, to its end. Runs in the worker's process."""
    from fastlb.data_plane import worker

    worker.worker_main(start)
