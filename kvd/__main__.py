"""The `kvd` command, also as `python -m kvd`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command. Ctrl-C while its modules are imported ends it as it ends any program, without a traceback."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # not ignored, as it is for what a shell runs in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kvd.cli.main import main as run  # noqa: PLC0415 -- what may be interrupted

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run(prog_name="kvd")


if __name__ == "__main__":
    main()
