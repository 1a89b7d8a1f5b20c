"""What tests of groups of namespaces share: a node that carries group 7, and knows of a namespace of group 9."""

from __future__ import annotations

import os
from typing import Final

import attrs

from kvd.server import Server
from kvd.settings import PeersSettings, Settings
from storage.changes import draw_id
from storage.policy import Policy

SETTINGS: Final = attrs.evolve(Settings(), peers=PeersSettings(groups=(7,)))
NOT_CARRIED: Final = "this node does not carry group 9"


def hear_of(server: Server, title: str, group: int) -> bytes:
    """Let a namespace be known as another node's registry tells of it; return its id."""
    store, namespace = server.store, draw_id(group, os.urandom)
    store.begin(store.now_ms)
    store.keyspaces.system.put(namespace, title.encode(), metadata=Policy().encode())
    store.keyspaces.accept(namespace)
    store.commit()
    return namespace
