"""`python -m kvd` is the `kvd` command."""

from __future__ import annotations

from kvd.cli.main import main

if __name__ == "__main__":
    main(prog_name="kvd")
