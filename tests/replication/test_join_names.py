"""Names to join that stand for several nodes, over real sockets: each node listens on a loopback address of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import attrs
import pytest
import trio

from replication.node import PeerNode
from replication.options import Options
from replication.proofs import new_secret_line, write_new
from replication.rejoin import Standing
from replication.security import SecretCredentials
from replication.tcp import TcpNetwork
from replication.transport import parse_address
from tests.replication.model_replica import ModelReplica
from tests.replication.resolver import Resolver

Result = TypeVar("Result")
WALL_MS: Final = 1_700_000_000_000


class Host:
    """A process with a model of a store, and nothing else."""

    def __init__(self, number: int) -> None:
        self.replica = ModelReplica(bytes([number]) * 16, now_ms=self.wall_ms)

    def transact(self, work: Callable[[], Result]) -> Result:
        return work()

    def wall_ms(self) -> int:
        return WALL_MS + int(trio.current_time() * 1000)

    async def sync(self) -> None:
        await trio.lowlevel.checkpoint()

    def rotate(self) -> None:
        pass

    def publish(self, message: Any) -> None:
        pass

    def dead_letter(self, stale: Any) -> None:
        pass

    def stood(self, standing: Standing) -> None:
        pass


@pytest.fixture
def secret(tmp_path: Path) -> SecretCredentials:
    write_new(tmp_path / "secret", new_secret_line().encode())
    return SecretCredentials(tmp_path / "secret")


@attrs.define
class Pods:
    """Nodes behind one name, as those of a headless service: each at the same port of its own address."""

    nursery: trio.Nursery
    secret: SecretCredentials
    resolver: Resolver
    port: int = 0

    async def start(
        self, number: int, *, founds: bool = False, seed: int = 0, redial: float = 0.1
    ) -> PeerNode:
        """Start the node of 127.0.0.`number`."""
        name = f"pods.example.org:{self.port}"
        options = Options(
            join=() if founds else (name,), redial_min=redial, redial_max=redial, start_gate=0.1
        )
        node = PeerNode(
            Host(number),
            TcpNetwork(self.secret, listen=f"127.0.0.{number}:{self.port}"),
            self.secret.authenticator,
            options,
            cluster=self.secret.cluster,
            rng=Random(seed),
            entropy=Random(number).randbytes,
        )
        node.open(founds=founds)
        await self.nursery.start(node.run)
        self.port = parse_address(node.address)[1]
        return node


@asynccontextmanager
async def pods(secret: SecretCredentials, *addresses: str) -> AsyncIterator[Pods]:
    resolver = Resolver(list(addresses))
    trio.socket.set_custom_hostname_resolver(resolver)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            yield Pods(nursery, secret, resolver)
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await trio.sleep(0.01)
    raise AssertionError("it has not come to that")


async def is_ready(node: PeerNode) -> None:
    await until(lambda: node.replicator.rejoin.standing is Standing.READY)


@pytest.mark.parametrize("seed", range(4))
async def test_who_is_behind_the_name_itself_finds_the_others(secret: SecretCredentials, seed: int) -> None:
    async with pods(secret, "127.0.0.1", "127.0.0.3", "127.0.0.2") as service:
        await service.start(2, founds=True)
        newcomer = await service.start(1, seed=seed)
        await is_ready(newcomer)


async def test_a_name_that_leads_to_the_node_alone_is_not_given_up(secret: SecretCredentials) -> None:
    async with pods(secret, "127.0.0.2") as service:
        first = await service.start(2, founds=True)
        service.resolver.addresses = ["127.0.0.1"]
        newcomer = await service.start(1)
        topology = newcomer.replicator.topology
        name = f"pods.example.org:{service.port}"
        await until(lambda: topology.is_own_address(name))
        assert newcomer.replicator.rejoin.standing is Standing.JOINING
        service.resolver.addresses = ["127.0.0.1", "127.0.0.2"]
        await is_ready(newcomer)
        assert not topology.is_own_address(name)
        assert [link.node for link in first.replicator.core.links.values()] == [bytes([1]) * 16]


@pytest.mark.parametrize("seed", range(4))  # the silent address comes first with some of them
async def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    secret: SecretCredentials, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("replication.node._DIAL_SECONDS", 4.0)
    async with pods(secret, "127.0.0.4", "127.0.0.2") as service:
        await service.start(2, founds=True)
        with trio.socket.socket() as silent:
            await silent.bind(("127.0.0.4", service.port))
            silent.listen(16)  # and nobody accepts
            await is_ready(await service.start(1, seed=seed, redial=1000.0))  # at the first attempt
