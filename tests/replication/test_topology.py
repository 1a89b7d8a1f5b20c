"""Which links a node wants, which of two it keeps, and how it dials."""

from __future__ import annotations

import itertools
from ipaddress import ip_network
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.membership import EXCESS
from replication.messages import Bye, Members, Reject, State
from replication.options import Options
from replication.topology import JOIN_INTERVAL, SIMULTANEOUS, Topology
from tests.replication.mesh import LoneLink, Mesh, MeshNode, hello_of, link_to, node_id, record_of, unlink


def lone(**changes: Any) -> MeshNode:
    mesh = Mesh()
    changes.setdefault("join", ())
    node = mesh.add(**changes)
    node.core.dial = lambda address, peer: node.dials.append((mesh.now, address))
    return node


def tell(node: MeshNode, *records: Any, through: int = 1) -> None:
    """Let a peer tell the node of members."""
    link = next((link for link in node.core.links.values() if link.node == node_id(through)), None)
    link = link or link_to(node, through)
    node.membership.on_members(link, Members(tuple(records)), node.mesh.now)


def run(node: MeshNode, seconds: float) -> None:
    end = node.mesh.now + seconds
    while node.mesh.now < end:
        node.core.now = node.mesh.now
        at = node.topology.tick(node.mesh.now)
        assert at > node.mesh.now
        node.mesh.now = min(at, end)
    node.core.now = node.mesh.now
    node.topology.tick(node.mesh.now)


def fail(node: MeshNode, address: str, number: int | None) -> None:
    peer = None if number is None else node_id(number)
    node.topology.on_dial_failed(address, peer, node.mesh.now)


def run_failing(node: MeshNode, seconds: float, address: str) -> None:
    """Run while nobody answers at an address to join."""
    for _ in range(int(seconds * 2)):
        before = len(node.dials)
        run(node, 0.5)
        if address in dialled(node)[before:]:
            fail(node, address, None)


def dialled(node: MeshNode) -> list[str]:
    return [address for _, address in node.dials]


def address_of(number: int) -> str:
    return hello_of(number).addresses[0]


# --- whom to dial


def test_in_a_full_mesh_everybody_is_dialled() -> None:
    node = lone()
    tell(node, *[record_of(number) for number in range(2, 9)])
    run(node, 3)
    assert sorted(dialled(node)) == [address_of(number) for number in range(2, 9)]


def test_nobody_is_dialled_that_has_no_address_or_says_not_to() -> None:
    node = lone()
    tell(node, record_of(2, dialable=False), record_of(3, addresses=()))
    run(node, 30)
    assert node.dials == []


def test_a_node_does_not_dial_itself() -> None:
    node = lone(join=("192.0.2.1:1", "10.0.0.0:6380"))
    node.topology.on_self("192.0.2.1:1")
    tell(node, record_of(2, addresses=("10.0.0.0:6380", "10.9.9.9:1")))
    run(node, 3)
    assert dialled(node) == ["10.9.9.9:1"]


def test_a_name_that_leads_to_the_node_itself_is_resolved_again() -> None:
    node = lone(join=("seed:1",))
    run(node, 1)
    assert node.topology.to_try("seed:1", ["192.0.2.1:1"]) == ["192.0.2.1:1"]
    node.topology.on_self("192.0.2.1:1")
    node.topology.on_dial_failed("seed:1", None, node.mesh.now)
    assert node.topology.is_own_address("seed:1")
    run(node, 60)
    assert dialled(node) == ["seed:1"] * len(node.dials)
    assert len(node.dials) > 1
    assert node.topology.to_try("seed:1", ["192.0.2.1:1", "192.0.2.2:1"]) == ["192.0.2.2:1"]
    assert not node.topology.is_own_address("seed:1")


def test_the_addresses_of_a_name_are_tried_in_random_order() -> None:
    node = lone(join=("seed:1",))
    found = [f"192.0.2.{number}:1" for number in range(4)]
    orders = {tuple(node.topology.to_try("seed:1", found)) for _ in range(50)}
    assert len(orders) > 10
    assert all(sorted(order) == found for order in orders)


def test_who_is_gone_is_not_dialled() -> None:
    node = lone()
    node.roster.admit(node_id(2), 0.0)
    node.roster.remove(node_id(2))
    node.membership.tick(node.mesh.now)
    tell(node, record_of(2))
    run(node, 30)
    assert node.dials == []


def test_hints_from_before_the_start_are_dialled_if_they_are_members() -> None:
    before = lone()
    tell(before, record_of(2), record_of(3))
    node = lone()
    node.membership.restore(before.membership.export())
    node.roster.admit(node_id(2), 0.0)
    run(node, 3)
    assert set(dialled(node)) == {address_of(2)}


def test_a_node_that_cannot_be_dialled_opens_a_few_links_itself() -> None:
    node = lone(dialable=False)
    tell(node, *[record_of(number) for number in range(2, 12)], through=1)
    run(node, 1)
    assert len(node.dials) == 2  # and the one that it has


def test_addresses_outside_the_allowed_networks_are_passed_over() -> None:
    node = lone(join=("seed.example:6380",))
    node.topology = Topology(
        node.core, node.roster, node.membership, allowed=[ip_network("10.0.0.0/24"), ip_network("fd00::/8")]
    )
    told = ("10.0.0.7:1", "[fd00::7]:1", "10.1.0.7:1", "[2001:db8::7]:1", "host.example:1", "nonsense")
    tell(node, *[record_of(number, addresses=(address,)) for number, address in enumerate(told, 2)])
    run(node, JOIN_INTERVAL * 3)
    assert set(dialled(node)) == {"10.0.0.7:1", "[fd00::7]:1", "seed.example:6380"}


# --- backing off


def test_failed_dials_become_rare_but_never_end() -> None:
    node = lone()
    tell(node, record_of(2))
    for _ in range(3000):
        before = len(node.dials)
        run(node, 0.5)
        if len(node.dials) > before:
            fail(node, address_of(2), 2)
    times = [time - node.dials[0][0] for time, _ in node.dials]
    assert sum(time < 5 for time in times) >= 3
    assert 40 <= len(times) <= 200  # every 15 s on the mean
    assert times[-1] > 1400


def test_all_addresses_of_a_member_are_tried() -> None:
    node = lone()
    tell(node, record_of(2, addresses=("10.0.0.2:1", "10.0.0.2:2")))
    for _ in range(100):
        before = len(node.dials)
        run(node, 0.2)
        if len(node.dials) > before:
            fail(node, dialled(node)[-1], 2)
    assert set(dialled(node)) == {"10.0.0.2:1", "10.0.0.2:2"}


def test_a_broken_link_is_redialled_by_the_smaller_id_first() -> None:
    node = lone()
    first = next(number for number in range(2, 99) if node_id(number) > node.id)
    second = next(number for number in range(2, 99) if node_id(number) < node.id)
    for number in (first, second):
        link = link_to(node, number, outgoing=False)
        node.mesh.now += 20
        unlink(node, link)
    run(node, 0.2)
    assert dialled(node) == [address_of(first)]
    run(node, 2)
    assert dialled(node) == [address_of(first), address_of(second)]


def test_links_that_break_at_once_are_backed_off_as_well() -> None:
    node = lone()
    tell(node, record_of(2))
    for _ in range(1200):
        before = len(node.dials)
        run(node, 0.5)
        if len(node.dials) > before:
            unlink(node, link_to(node, 2))
    assert len(node.dials) < 150


# --- addresses to join


def test_addresses_to_join_are_dialled_until_there_is_a_link() -> None:
    node = lone(join=("seed:1", "seed:2"))
    for _ in range(40):
        run(node, 0.5)
        for address in dict.fromkeys(dialled(node)):
            fail(node, address, None)
    assert len(node.dials) > 6
    assert set(dialled(node)) == {"seed:1", "seed:2"}


def test_with_links_an_address_to_join_is_only_dialled_if_it_may_lead_to_strangers() -> None:
    node = lone(join=(address_of(2), "10.9.0.1:6380"))
    tell(node, record_of(2, dialable=False))  # known, though not to be dialled as a member
    run_failing(node, 600, "10.9.0.1:6380")
    assert set(dialled(node)) == {"10.9.0.1:6380"}
    assert 20 <= len(node.dials) <= 100  # every 15 s on the mean, and some at the beginning


@pytest.mark.parametrize("alias", [False, True])
def test_where_a_member_was_removed_its_successor_is_looked_for(alias: bool) -> None:
    address = "alias.example:1" if alias else address_of(2)
    node = lone(join=(address,))
    run(node, 1)
    link = link_to(node, 2)
    link_to(node, 3)
    node.roster.admit(node_id(2), 0.0)
    run(node, 200)
    unlink(node, link)
    node.roster.remove(node_id(2))
    node.membership.tick(node.mesh.now)
    node.dials.clear()
    began = node.mesh.now
    run_failing(node, 120, address)
    times = [time - began for time, found in node.dials if found == address]
    assert times[0] < 2
    assert max(later - time for time, later in itertools.pairwise([*times, 120.0])) <= 31
    link_to(node, 4, addresses=(address,))
    run(node, 60)
    assert node.mesh.now - node.dials[-1][0] >= 60


def test_who_leaves_is_not_dialled_as_long_as_it_is_linked() -> None:
    node = lone(join=(address_of(2),))
    run(node, 1)
    link = link_to(node, 2)
    link_to(node, 3)
    node.roster.admit(node_id(2), 0.0)
    node.roster._depart(node_id(2), "left")
    node.membership.tick(node.mesh.now)
    node.dials.clear()
    run(node, 30)
    assert node.dials == []
    unlink(node, link)
    run(node, 3)
    assert dialled(node) == [address_of(2)]


def test_a_partial_view_looks_for_strangers_only_now_and_then() -> None:
    node = lone(join=("10.9.0.1:6380",))
    tell(node, *[record_of(number) for number in range(100, 200)])
    for number in range(100, 108):
        link_to(node, number)
    run_failing(node, 600, "10.9.0.1:6380")
    assert 5 <= dialled(node).count("10.9.0.1:6380") <= 600 / JOIN_INTERVAL + 1


def test_an_alias_that_led_to_a_living_member_is_not_dialled_again_soon() -> None:
    node = lone(join=("alias.example:1",))
    run(node, 1)
    assert dialled(node) == ["alias.example:1"]
    link_to(node, 2)
    run(node, 300)
    assert dialled(node) == ["alias.example:1"]


def test_the_last_link_lost_the_addresses_to_join_are_dialled_at_once() -> None:
    node = lone(join=("alias.example:1",))
    run(node, 1)
    link = link_to(node, 2)
    run(node, 30)
    unlink(node, link)
    run(node, 1)
    assert dialled(node).count("alias.example:1") == 2


# --- of two links one


def pair(
    older: bool, newer: bool, *, one: int = 1, other: int = 2, age: float = 0.1
) -> tuple[bool, bool, MeshNode, MeshNode]:
    """Return for both ends of two links whether they keep the older one; `older`: it was opened by `one`."""
    kept = []
    nodes = []
    for number, peer, is_opener in ((one, other, True), (other, one, False)):
        mesh = Mesh()
        node = [mesh.add(join=(), admit=False) for _ in range(number + 1)][-1]
        existing = link_to(node, peer, outgoing=older is is_opener)
        mesh.now += age
        node.core.now = mesh.now
        new = LoneLink(hello_of(peer), outgoing=newer is is_opener, number=5000)
        kept.append(node.topology.choose(existing, new) is existing)
        nodes.append(node)
    return kept[0], kept[1], nodes[0], nodes[1]


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("newer", [True, False])
@given(st.integers(1, 12), st.integers(13, 24), st.sampled_from([0.1, SIMULTANEOUS * 2]))
def test_both_ends_keep_the_same_link(older: bool, newer: bool, one: int, other: int, age: float) -> None:
    here, there, *_ = pair(older, newer, one=one, other=other, age=age)
    assert here == there


def test_of_simultaneous_links_the_one_that_the_smaller_id_opened_survives() -> None:
    small, great = sorted((1, 2), key=node_id)
    assert pair(older=True, newer=False, one=small, other=great)[0]
    assert not pair(older=True, newer=False, one=great, other=small)[0]


def test_an_old_link_gives_way_because_its_peer_has_lost_it() -> None:
    assert not pair(older=True, newer=False, age=SIMULTANEOUS + 1)[0]
    assert not pair(older=False, newer=True, age=SIMULTANEOUS + 1)[0]


def test_another_boot_of_the_peer_survives() -> None:
    node = lone()
    existing = link_to(node, 1)
    new = LoneLink(hello_of(1, boot=b"n" * 16), outgoing=not existing.outgoing, number=5000)
    assert node.topology.choose(existing, new) is new


def test_a_replaced_link_is_no_reason_to_probe_its_peer() -> None:
    node = lone()
    existing = link_to(node, 1)
    node.mesh.now += 60
    node.core.now = node.mesh.now
    link_to(node, 2)
    node.topology.choose(existing, LoneLink(hello_of(1), number=5000))
    unlink(node, existing)
    run(node, 0.05)
    assert not any(probe.accuses for probe in node.membership.prober._probes.values())


# --- the partial view


def crowd(node: MeshNode, count: int, **changes: Any) -> None:
    tell(node, *[record_of(number, **changes) for number in range(100, 100 + count)])


def test_above_its_limit_the_mesh_is_partial_until_it_is_much_smaller() -> None:
    node = lone()
    crowd(node, 30)
    run(node, 1)
    shapes = [node.topology.is_partial]  # 32 with itself and its peer
    tell(node, record_of(500))
    run(node, 1)
    shapes.append(node.topology.is_partial)
    for number in range(100, 109):
        node.roster.admit(node_id(number), 0.0)
        node.roster.remove(node_id(number))
    node.membership.tick(node.mesh.now)
    run(node, 2)
    shapes.append(node.topology.is_partial)
    assert shapes == [False, True, False]


def test_a_partial_view_dials_up_to_its_degree() -> None:
    node = lone()
    crowd(node, 100)
    run(node, 5)
    assert len(node.dials) == 7  # and the one that it has


def test_a_partial_view_leads_out_of_its_zone() -> None:
    node = lone(zone="here")
    link_to(node, 1, zone="here")
    crowd(node, 100, zone="here")
    tell(node, *[record_of(number, zone="there") for number in range(300, 303)])
    for number in range(100, 110):
        link_to(node, number, zone="here")
    run(node, 5)
    assert set(dialled(node)) <= {address_of(number) for number in range(300, 303)}
    assert node.dials


def full_view(count: int, **changes: Any) -> tuple[MeshNode, list[LoneLink]]:
    node = lone(**changes)
    crowd(node, 100)
    links = [link_to(node, number) for number in range(100, 100 + count - 1)]
    return node, links


def closed(links: list[LoneLink]) -> list[LoneLink]:
    return [link for link in links if link.closing == EXCESS]


def settle(node: MeshNode, links: list[LoneLink], seconds: float) -> None:
    """Run and let closed links go down."""
    for _ in range(int(seconds)):
        run(node, 1)
        for link in links:
            if link.closing and link.node in node.core.links:
                del node.core.links[link.node]
                node.topology.on_link_down(link, node.mesh.now)


def test_too_many_links_are_let_go_gracefully() -> None:
    node, links = full_view(30)
    settle(node, links, 40)
    assert 12 <= len(node.core.links) <= 16
    for link in closed(links):
        assert link.sent[-1] == Bye(EXCESS)
        assert link.dropped is None


def test_young_links_are_kept_for_a_while() -> None:
    node, links = full_view(30)
    settle(node, links, 8)
    assert not closed(links)


def test_the_last_link_to_another_zone_is_never_let_go() -> None:
    for seed in range(5):
        node, links = full_view(30, zone="")
        node.core.rng.seed(seed)
        outside = link_to(node, 400, zone="elsewhere")
        settle(node, [*links, outside], 60)
        assert outside.closing is None


def test_near_links_are_kept() -> None:
    node, links = full_view(30)
    for rank, link in enumerate(links):
        node.membership.prober._rtt[link.node] = 0.001 * (rank + 1)
    settle(node, links, 40)
    assert not closed(links[:4])


def test_who_was_let_go_is_not_dialled_again_soon() -> None:
    node = lone()
    link_to(node, 3)
    link = link_to(node, 2)
    run(node, 20)
    node.topology.on_bye(link, Bye(EXCESS), node.mesh.now)
    node.membership.on_bye(link, Bye(EXCESS), node.mesh.now)
    unlink(node, link)
    run(node, 25)
    assert node.dials == []
    run(node, 60)
    assert set(dialled(node)) == {address_of(2)}


def test_whose_only_link_was_let_go_comes_back() -> None:
    node = lone()
    link = link_to(node, 2)
    run(node, 20)
    node.topology.on_bye(link, Bye(EXCESS), node.mesh.now)
    unlink(node, link)
    run(node, 5)
    assert node.dials


def test_a_partial_view_dials_unreachable_members_now_and_then() -> None:
    node = lone()
    crowd(node, 100)
    for number in range(100, 108):
        link_to(node, number)
    lost = record_of(150, state=State.UNREACHABLE)
    node.roster.admit(lost.node, 0.0)
    tell(node, lost)
    run(node, 1)
    node.dials.clear()
    run(node, 600)
    assert 2 <= dialled(node).count(address_of(150)) <= 30


# --- removed members


def test_links_with_removed_members_are_closed() -> None:
    node = lone()
    link = link_to(node, 2)
    node.roster.admit(link.node, 0.0)
    node.roster.remove(link.node)
    run(node, 2)
    assert link.closing is not None
    assert isinstance(link.sent[-1], Reject)


def test_a_member_that_leaves_keeps_its_links_until_it_closes_them() -> None:
    node = lone()
    link = link_to(node, 2)
    node.roster.admit(link.node, 0.0)
    node.roster._depart(link.node, "left")
    run(node, 2)
    assert link.is_open


def test_options_are_those_of_the_spec() -> None:
    options = Options()
    assert (options.degree_low, options.degree, options.degree_high) == (6, 8, 12)
    assert attrs.asdict(options)["nat_links"] == 3
