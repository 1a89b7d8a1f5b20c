"""How far a node trusts its own judgement of others.

A process that is starved of CPU reads answers late and takes living members for dead. It can tell: its
timers fire late, and the members that it asks for help do not even answer that they failed. Each such
sign raises a score, each answered probe lowers it, and all of the node's intervals and timeouts are
multiplied by 1 + score. So a node that stalls suspects itself before it suspects anybody else.

Source: Lifeguard (Dadgar, Phillips, Currey 2018) §IV.A.
"""

from __future__ import annotations


class Health:
    """The score: 0 is well, `maximum` is worst."""

    __slots__ = ("_maximum", "score")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.score = 0

    @property
    def multiplier(self) -> int:
        return 1 + self.score

    def worsen(self, amount: int = 1) -> None:
        self.score = min(self._maximum, self.score + amount)

    def improve(self) -> None:
        self.score = max(0, self.score - 1)
