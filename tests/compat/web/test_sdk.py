"""The real Python SDK of Cloudflare, with the daemon as its API."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compat.web.runtime import ports
from tests.servers import RunningServer, kvd_server

pytestmark = pytest.mark.needs_frameworks("cloudflare")

ACCOUNT = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with kvd_server(tmp_path_factory.mktemp("kvd")) as running:
        yield running


@pytest.fixture
def namespaces(daemon: RunningServer) -> Iterator[Any]:
    import cloudflare

    url = f"http://127.0.0.1:{ports(daemon)['http']}/client/v4"
    with cloudflare.Cloudflare(api_token="anything", base_url=url) as client:
        yield client.kv.namespaces


@pytest.fixture
def ns(namespaces: Any) -> Iterator[str]:
    made = namespaces.create(account_id=ACCOUNT, title="sdk")
    yield made.id
    namespaces.delete(made.id, account_id=ACCOUNT)


def test_namespaces(namespaces: Any) -> None:
    import cloudflare

    made = [namespaces.create(account_id=ACCOUNT, title=f"n{n:03}") for n in range(45)]
    assert made[0].supports_url_encoding is True
    listed = [one.id for one in namespaces.list(account_id=ACCOUNT, per_page=10, order="title")]
    assert listed == [one.id for one in made]
    with pytest.raises(cloudflare.BadRequestError) as raised:
        namespaces.create(account_id=ACCOUNT, title="n001")
    assert raised.value.body["errors"][0]["code"] == 10014
    assert namespaces.update(made[0].id, account_id=ACCOUNT, title="renamed").title == "renamed"
    assert namespaces.get(made[0].id, account_id=ACCOUNT).title == "renamed"
    for one in made:
        namespaces.delete(one.id, account_id=ACCOUNT)
    with pytest.raises(cloudflare.NotFoundError):
        namespaces.get(made[0].id, account_id=ACCOUNT)


def test_values(namespaces: Any, ns: str) -> None:
    import cloudflare

    where = {"account_id": ACCOUNT, "namespace_id": ns}
    value = b"\x00\xff\r\n--bytes"
    namespaces.values.update("a/b ż", value=value, metadata={"u": "ż"}, expiration_ttl=3600, **where)
    assert namespaces.values.get("a/b ż", **where).read() == value
    assert namespaces.metadata.get("a/b ż", **where) == {"u": "ż"}
    namespaces.values.update("text", value=b"plain", **where)
    assert namespaces.values.get("text", **where).read() == b"plain"
    (first, second) = namespaces.keys.list(ns, account_id=ACCOUNT)
    assert (first.name, first.metadata, second.name) == ("a/b ż", {"u": "ż"}, "text")
    assert abs(first.expiration - time.time() - 3600) < 60
    namespaces.values.delete("text", **where)
    with pytest.raises(cloudflare.NotFoundError):
        namespaces.values.get("text", **where)


def test_bulk_and_pages(namespaces: Any, ns: str) -> None:
    pairs: list[dict[str, Any]] = [
        {"key": f"k{n:04}", "value": f"v{n}", "metadata": {"n": n}} for n in range(2500)
    ]
    pairs.append({"key": "z", "value": base64.b64encode(b"\xff").decode(), "base64": True})
    assert namespaces.bulk_update(ns, account_id=ACCOUNT, body=pairs).successful_key_count == 2501
    names = [key.name for key in namespaces.keys.list(ns, account_id=ACCOUNT, limit=1000)]
    assert names == [pair["key"] for pair in pairs]
    found = namespaces.bulk_get(ns, account_id=ACCOUNT, keys=["k0001", "none"], with_metadata=True)
    assert found.values["k0001"].value == "v1"
    assert found.values["none"] is None
    done = namespaces.bulk_delete(ns, account_id=ACCOUNT, body=names)
    assert done.successful_key_count == 2501
    assert list(namespaces.keys.list(ns, account_id=ACCOUNT)) == []
