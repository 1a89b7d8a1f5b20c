"""conf/grafana-dashboard.json and conf/alerts.yml ask for metrics that a node of three really has."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from tests.servers import ROOT, RunningServer, kvd_server, wait_until

# Names of ours in an expression, each with its selector: metric{label="value",…}.
SELECTOR = re.compile(r"\b((?:kvd|redis)_[a-z0-9_]+)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!=|=)"([^"]*)"')
SAMPLE = re.compile(r"([a-z0-9_]+)(?:\{(.*)\})? ")
# What Prometheus adds itself.
TARGET_LABELS = {"job", "instance"}

Samples = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What /metrics of a node says that has a certificate, two peers, a namespace, a group, and clients of both kinds."""
    directory = tmp_path_factory.mktemp("monitored")
    authority = directory / "authority"
    kvd("cluster", "init", "--mtls", str(authority), "--node", "one")
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(node(directory, authority, "one"))
        others = []
        for name in ("two", "three"):
            kvd("cluster", "token", "--ca", str(authority), "--node", name)
            join = ("--join", f"127.0.0.1:{port(one, 'peer')}")
            others.append(stack.enter_context(node(directory, authority, name, *join)))
        exercise(one, *others)
        wait_until(lambda: "kvd_peers_clock_offset_seconds " in read(one), "the clocks are compared")
        yield read(one)


def node(directory: Path, authority: Path, name: str, *options: str) -> Any:
    (directory / name).mkdir()
    own = ("--peer-cert", str(authority / f"{name}.pem"), "--peer-port", "0", "--set", "peers.bind=127.0.0.1")
    return kvd_server(directory / name, *own, "--peer-groups", "7", *options)


def exercise(one: RunningServer, *others: RunningServer) -> None:
    with one.client() as client:
        client.set("k", "v")
        client.get("k")
        client.execute_command("KV.NS", "CREATE", "space")
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.execute_command("NONSENSE")
    for other in others:
        wait_until(partial(readable, other), "the other node has the write")
        with other.client() as client:
            client.set("back", "v")
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{port(one, 'http')}/missing?urlencoded=true", timeout=60)


def readable(server: RunningServer) -> bool:
    with server.client() as client:
        return bool(client.get("k") == b"v")


def kvd(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "kvd", *arguments], cwd=ROOT, check=True, capture_output=True)


def port(server: RunningServer, name: str) -> int:
    return int(json.loads((server.log_file.parent / "ports.json").read_text())[name])


def read(server: RunningServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port(server, 'http')}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "conf" / "grafana-dashboard.json").read_text())
    return found


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "conf" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    found += [one["query"] for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    return [*found, *(rule["expr"] for rule in alerts())]


def samples(text: str) -> Samples:
    found: Samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.match(line)
            assert match is not None, line
            found.setdefault(match[1], []).append(dict(re.findall(r'(\w+)="([^"]*)"', match[2] or "")))
    return found


def test_every_metric_that_is_asked_for_exists(metrics: str) -> None:
    found = samples(metrics)
    wanted = [(match, expression) for expression in expressions() for match in SELECTOR.finditer(expression)]
    assert len(wanted) > 60
    for match, expression in wanted:
        name, selector = match.groups()
        assert name in found, f"{name}, of {expression}"
        labels = {label for label, _, _ in MATCHER.findall(selector or "")} - TARGET_LABELS
        assert any(labels <= sample.keys() for sample in found[name]), f"{labels} of {name}, of {expression}"


def test_labels_to_group_by_and_to_show_exist(metrics: str) -> None:
    found = samples(metrics)
    for expression in expressions():
        names = [name for name, _ in SELECTOR.findall(expression)]
        for grouped in re.findall(r"\bby \(([\w, ]+)\)", expression):
            for label in set(grouped.replace(" ", "").split(",")) - TARGET_LABELS:
                assert any(label in sample for name in names for sample in found[name]), (
                    f"{label}: {expression}"
                )


def test_states_that_alerts_ask_for_are_states() -> None:
    from replication.messages import State

    states = {state.name.lower() for state in State}
    for rule in alerts():
        assert set(re.findall(r'state="(\w+)"', rule["expr"])) <= states


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells


def test_histograms_are_as_prometheus_wants_them(metrics: str) -> None:
    found = samples(metrics)
    for name in ("kvd_peers_propagation_seconds", "kvd_http_request_duration_seconds"):
        assert f"# TYPE {name} histogram" in metrics
        bounds = [sample["le"] for sample in found[f"{name}_bucket"]]
        assert bounds[-1] == "+Inf"
        assert [float(bound) for bound in bounds] == sorted(float(bound) for bound in bounds)
        assert f"{name}_sum" in found
        assert f"{name}_count" in found


def test_what_the_documentation_names_exists(metrics: str) -> None:
    """Each name in the table of docs/replication.md, but those that are there only when something is."""
    page = (ROOT / "docs" / "replication.md").read_text()
    table = page.partition("## Metrics and alarms")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    names = {name for cell in cells for name in re.findall(r"`([a-z_]+?)(?:\{[^`]*|_\*)?`", cell)}
    assert len(names) > 40
    found = {name.removeprefix("kvd_peers_") for name in samples(metrics)} | {"propagation_seconds"}
    assert names - found <= {"origin_held_seconds", "gc_epoch_seconds"}
