"""Run an example Worker with kvd as its KV: `make example NAME=sessions`.

    python examples/workers/run.py NAME [--kvd 127.0.0.1:8379] [--listen 127.0.0.1:8787]

A daemon that answers at --kvd is used. If none does, one is started, as `make serve` would, and stopped with the
Worker; what the Worker wrote is there the next time. The Worker's namespace, which bears its name, is made when it
is missing, and filled once with what lies beside the Worker: the entries of seed.json and the files in public/.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KVD = (sys.executable, "-m", "kvd")
START_SECONDS = 30.0


def names() -> list[str]:
    return sorted(config.parent.name for config in HERE.glob("*/workerd.capnp"))


def introduction(name: str) -> list[str]:
    """Return the comment at the head of the Worker: what it is, and how to try it."""
    lines = (HERE / name / "worker.mjs").read_text().splitlines()
    return [
        line.removeprefix("//")[1:] for line in itertools.takewhile(lambda line: line.startswith("//"), lines)
    ]


def title(name: str) -> str:
    return " ".join(introduction(name)).partition(". ")[0].partition("  ")[0]


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{url}: {error.read().decode(errors='replace').strip()}") from None
    except OSError:
        return False


@contextlib.contextmanager
def daemon(url: str) -> Iterator[None]:
    """Run kvd as `make serve` does until the block ends. Raise SystemExit if it does not start."""
    port = url.rpartition(":")[2]
    command = [*KVD, "serve", "--config", "conf/kvd.toml", "--http-port", port]
    with _process(command, ROOT) as process:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"kvd does not start at {url}")
            time.sleep(0.05)
        yield


def prepare(name: str, url: str) -> None:
    """Make the namespace of the example and fill it, unless it is there."""
    if name in (found["title"] for found in json.loads(_kvd(url, "namespace", "list", "--json"))):
        return
    _kvd(url, "namespace", "create", name)
    seed, public = HERE / name / "seed.json", HERE / name / "public"
    if seed.exists():
        _kvd(url, "bulk", "put", "-n", name, str(seed))
    for file in sorted(file for file in public.rglob("*") if file.is_file()):
        _kvd(url, "key", "put", "-n", name, file.relative_to(public).as_posix(), "--path", str(file))


def _kvd(url: str, *arguments: str) -> str:
    command = [*KVD, *arguments, "--url", url]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.returncode)  # it has said why
    return run.stdout


def serve(name: str, workerd: Path, kvd: str, listen: str) -> int:
    """Run the Worker until it ends or is ended; return the exit status."""
    if not workerd.exists():
        raise SystemExit(
            f"{workerd} is missing; `make example NAME={name}` installs it, or `npm ci` in {HERE}"
        )
    command = [
        workerd,
        "serve",
        "workerd.capnp",
        "--external-addr",
        f"kvd={kvd}",
        "--socket-addr",
        f"http={listen}",
    ]
    with _process([str(part) for part in command], HERE / name) as process:
        return process.wait()


@contextlib.contextmanager
def _process(command: list[str], directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, cwd=directory) as process:
        try:
            yield process
        finally:
            process.terminate()


def main() -> int:
    parser = argparse.ArgumentParser(description="Run an example Worker with kvd as its KV.")
    parser.add_argument("name", nargs="?", choices=names())
    parser.add_argument("--kvd", default="127.0.0.1:8379", metavar="HOST:PORT", help="where kvd answers HTTP")
    parser.add_argument(
        "--listen", default="127.0.0.1:8787", metavar="HOST:PORT", help="where the Worker listens"
    )
    parser.add_argument("--workerd", type=Path, default=HERE / "node_modules/.bin/workerd", metavar="PATH")
    options = parser.parse_args()
    if options.name is None:
        print("\n".join(f"make example NAME={name:20} {title(name)}" for name in names()))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        url = f"http://{options.kvd}"
        if not is_ready(url):
            stack.enter_context(daemon(url))
        prepare(options.name, url)
        print(
            *introduction(options.name),
            "",
            f"Listening at {options.listen}; Ctrl-C ends it.",
            sep="\n",
            flush=True,
        )
        return serve(options.name, options.workerd, options.kvd, options.listen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
