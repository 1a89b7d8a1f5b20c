"""One Worker that reads one key: with kvd as its KV, and with miniflare's own KV beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.compat.web.runtime import MODULES, WORKERD, Binding, free_port, listening, ports, worker
from tests.servers import RunningServer

HERE: Final = Path(__file__).parent
WORKER: Final = HERE / "read_worker.mjs"
WITH_KVD: Final = "Worker on workerd, kvd as KV"
WITH_MINIFLARE: Final = "Worker on miniflare, its own KV"


@contextlib.contextmanager
def workers(server: RunningServer, directory: Path, value: str) -> Iterator[dict[str, str]]:
    """Run the Worker both ways; give the addresses by name. The key "hot" of the daemon is there already.

    Both run in the same workerd: miniflare is told to take ours instead of the one it would bring.
    """
    for name in ("workerd", "miniflare"):
        (directory / name).mkdir()
    binding = Binding("KV", f"127.0.0.1:{ports(server)['http']}")
    port = free_port()
    command: list[str | Path] = ["node", HERE / "miniflare.mjs", MODULES, WORKER, str(port), value]
    with (
        worker(directory / "workerd", [binding], script=WORKER) as ours,
        listening(command, port, directory / "miniflare" / "log", MINIFLARE_WORKERD_PATH=str(WORKERD)),
    ):
        yield {WITH_KVD: f"http://127.0.0.1:{ours.port}/", WITH_MINIFLARE: f"http://127.0.0.1:{port}/"}
