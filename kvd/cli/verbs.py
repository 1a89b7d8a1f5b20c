"""Groups of verbs whose help tells of each verb in a whole sentence."""

from __future__ import annotations

from typing import Final

import click

# More than any first sentence has; click would cut them to what fits into one line.
_SENTENCE_CHARACTERS: Final = 200


class Verbs(click.Group):
    """A group that lists its verbs with sentences of any length, in several lines where they need them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, verb.get_short_help_str(_SENTENCE_CHARACTERS)) for name, verb in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows))
