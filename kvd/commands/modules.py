"""The explicit list of the modules that declare commands."""

from __future__ import annotations

from kvd.commands import (
    acl,
    auth,
    bitfield,
    bitmaps,
    client,
    command_docs,
    config,
    counters,
    debug,
    dump,
    encryption,
    expiry,
    info,
    keys,
    kv,
    latency,
    lcs,
    monitor,
    namespaces,
    objects,
    peers,
    persistence,
    pubsub,
    refused,
    replicas,
    scan,
    scripting,
    server,
    slowlog,
    strings,
    tracking,
    transactions,
)
from kvd.commands.spec import CommandSpec

MODULES = (
    acl,
    auth,
    bitfield,
    bitmaps,
    client,
    command_docs,
    config,
    counters,
    debug,
    dump,
    encryption,
    expiry,
    info,
    keys,
    kv,
    latency,
    lcs,
    monitor,
    namespaces,
    objects,
    peers,
    persistence,
    pubsub,
    refused,
    replicas,
    scan,
    scripting,
    server,
    slowlog,
    strings,
    tracking,
    transactions,
)


def all_commands() -> list[CommandSpec]:
    """Return every declared command; containers come before their subcommands."""
    found = [spec for module in MODULES for spec in module.COMMANDS]
    return sorted(found, key=lambda spec: "|" in spec.name)
