"""Peers. Nothing stands here yet: a single node needs none of it.

The store already writes what replication reads: stamped registers and a change log in the same
batch (see `storage.changes`). This package will import `storage.changes` and nothing else of its siblings.
"""
