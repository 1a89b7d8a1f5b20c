"""`kvd cluster`: the verbs about the other nodes."""

from __future__ import annotations

import click

from kvd.cli import cluster_offline, cluster_online
from kvd.cli.verbs import Verbs


@click.group(cls=Verbs)
def cluster() -> None:
    """Make a cluster of nodes, and look after it."""


cluster_offline.add_to(cluster)
cluster_online.add_to(cluster)
