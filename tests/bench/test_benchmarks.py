"""The benchmarks themselves: they run, and their figures mean what they say."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.bench import cluster, compare, encryption, latency, scale


@pytest.mark.needs_redis
def test_compare_measures_both_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    compare.main(
        [
            *("--only", "GET P=1", "--only", "SET P=16", "--durability", "everysec"),
            *("--rounds", "1", "--requests", "0.005", "--json", str(figures), "--no-encryption"),
        ]
    )
    rows = json.loads(figures.read_text())
    assert [row["load"] for row in rows] == ["GET P=1", "SET P=16"]
    for row in rows:
        assert row["redis"]["per_second"] > 0
        assert row["kvd"]["per_second"] > 0
    assert "of 2 targets reached" in capsys.readouterr().out


@pytest.mark.needs_redis
def test_the_cost_of_encryption_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    encryption.main(["--rounds", "1", "--requests", "0.005"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:28].strip() for line in lines[4:]] == [load.name for load in encryption.LOADS]


@pytest.mark.needs_redis
def test_scale_measures_every_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "REQUESTS", 2000)
    monkeypatch.setattr(scale, "GROWTH_FROM", 100)
    monkeypatch.setattr(scale, "FLUSH_SECONDS", 0.2)
    scale.main(["--least", "2", "--most", "3"])
    shown = capsys.readouterr().out
    assert "Growth from 100 to 1,000 keys" in shown
    assert "GET hot" in shown
    assert "MiB resident, target under 576" in shown
    assert "FLUSHALL of 1,000 keys" in shown
    assert "worst under 100 ms" in shown


def test_latency_runs_its_mix(capsys: pytest.CaptureFixture[str]) -> None:
    latency.main(["--minutes", "0.01", "--rate", "2000"])
    shown = capsys.readouterr().out
    assert "kvd (everysec): 1,200 requests" in shown
    assert "target p99.9" in shown


@pytest.mark.soak
def test_trouble_with_a_peer_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    parts = ("--only", "slow", "--only", "stopped", "--only", "catchup")
    cluster.main([*parts, "--seconds", "2", "--writes", "2000", "--json", str(figures)])
    report = json.loads(figures.read_text())
    assert report.keys() == {"slow", "stopped", "catchup"}
    for part in ("slow", "stopped"):
        assert report[part]["missing_writes"] > 0
        assert report[part]["p99_ratio"] > 0
        assert report[part]["resident_during_bytes"] > 10 << 20
    assert report["slow"]["queue_bytes"] > 0
    caught_up = report["catchup"]
    assert caught_up.keys() == {"who was away", "node 0", "node 1"}
    assert caught_up["who was away"]["node 0"]["p99_ratio"] > 0
    assert caught_up["who was away"]["core_percent"]["who was away"] > 0
    assert caught_up["node 1"]["node 1"]["p99_ratio"] > 0
    assert "node 0" not in caught_up["node 1"]
    shown = capsys.readouterr().err
    assert "stopped: a stopped peer (SIGSTOP) for 2 s; ten minutes are asked for: --only stopped" in shown


def test_a_pause_is_felt_by_all_that_should_have_been_asked_in_it() -> None:
    found = latency.Histogram()
    found.add_felt(1_000_000, 0.01)
    found.add_felt(100_000_000, 0.01)
    assert found.count == 11
    assert found.highest_ns == 100_000_000
    assert found.percentile_ms(50) == pytest.approx(50, rel=1 / 31)


def test_histogram_is_as_precise_as_it_says() -> None:
    rng = random.Random(1)
    values = [int(10 ** rng.uniform(2, 10)) for _ in range(20_000)]
    histogram = latency.Histogram()
    for value in values:
        histogram.add(value)
    values.sort()
    for percent in (0.1, 1, 50, 90, 99, 99.9, 100):
        exact = values[min(len(values) - 1, int(len(values) * percent / 100 + 0.5) - 1)] / 1e6
        assert histogram.percentile_ms(percent) == pytest.approx(exact, rel=1 / 31)


def test_merged_histograms_are_one() -> None:
    first, second, both = latency.Histogram(), latency.Histogram(), latency.Histogram()
    for value in range(1, 2000):
        (first if value % 3 else second).add(value * 1000)
        both.add(value * 1000)
    first.merge(second)
    assert first.count == both.count
    assert [first.percentile_ms(p) for p in (1, 50, 99, 100)] == [
        both.percentile_ms(p) for p in (1, 50, 99, 100)
    ]
