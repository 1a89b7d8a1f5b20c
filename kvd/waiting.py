"""A command that answers later: WAIT, WAITAOF, SAVE.

The session is suspended until the first of these: somebody has an answer, the command's time is over,
CLIENT UNBLOCK, or the connection is gone. Whatever comes second finds nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from kvd.dispatch import storage_refusal
from protocol.replies import ErrorReply, Reply
from storage.errors import StorageError

if TYPE_CHECKING:
    from kvd.session import Session

UNBLOCKED: Final = "UNBLOCKED client unblocked via CLIENT UNBLOCK"


class Waiting:
    """One suspended command. The command itself returns NO_REPLY.

    `at_timeout` gives the reply if nobody else does; a command without it cannot be unblocked.
    """

    def __init__(self, session: Session, at_timeout: Callable[[], Reply] | None = None) -> None:
        self._session = session
        self._at_timeout = at_timeout
        self._over = trio.Event()
        session.suspend(self._unblock if at_timeout is not None else None)

    @property
    def is_over(self) -> bool:
        """Whether the command was answered, or its client is gone."""
        return self._over.is_set() or not self._session.suspended

    def answer(self, reply: Reply) -> None:
        """End the wait with `reply`, unless it has ended already."""
        if not self._over.is_set():
            self._over.set()
            self._session.resume(reply)

    def limit(self, timeout_ms: int) -> None:
        """End the wait after `timeout_ms`; 0 lets it last for ever. Needs `at_timeout`."""
        if timeout_ms:
            self._session.server.spawn(self._expire, timeout_ms / 1000)

    def _unblock(self, error: bool) -> None:
        if self.is_over:
            self._over.set()  # the client is gone: nobody asks what the reply would be
        else:
            self.answer(ErrorReply(UNBLOCKED) if error else self._reply_at_timeout())

    def _reply_at_timeout(self) -> Reply:
        assert self._at_timeout is not None
        try:
            return self._at_timeout()
        except StorageError as error:
            return storage_refusal(error)

    async def _expire(self, timeout_seconds: float) -> None:
        with trio.move_on_after(timeout_seconds):
            await self._over.wait()
        if not self._over.is_set():
            self._unblock(error=False)
