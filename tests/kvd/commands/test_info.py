"""INFO: its sections, the fields that clients and exporters read, and whether they tell the truth."""

from __future__ import annotations

from typing import Any

import pytest
from redis._parsers.helpers import parse_info

import kvd
from kvd import process
from kvd.commands.spec import CommandStats
from kvd.info import human, percentile_nanoseconds
from kvd.sampler import Sampler
from kvd.settings import Settings
from kvd.web import metrics
from tests.kvd.harness import Client, InProcessServer, encode

# What redis_exporter, redis-cli --stat, ioredis, BullMQ and Sidekiq read, as far as kvd has it.
READ_BY_TOOLS = (
    "redis_version redis_mode arch_bits loading role cluster_enabled maxmemory maxmemory_policy "
    "connected_clients blocked_clients used_memory used_memory_human used_memory_rss used_memory_peak "
    "uptime_in_seconds uptime_in_days process_id run_id tcp_port total_connections_received "
    "total_commands_processed instantaneous_ops_per_sec total_net_input_bytes total_net_output_bytes "
    "rejected_connections expired_keys evicted_keys keyspace_hits keyspace_misses pubsub_channels "
    "pubsub_patterns latest_fork_usec mem_fragmentation_ratio rdb_changes_since_last_save "
    "rdb_bgsave_in_progress rdb_last_save_time rdb_last_bgsave_status aof_enabled connected_slaves "
    "master_repl_offset used_cpu_sys used_cpu_user total_error_replies total_reads_processed "
    "total_writes_processed expire_cycle_cpu_milliseconds used_memory_startup current_fork_perc "
    "mem_aof_buffer rdb_last_load_keys_loaded monotonic_clock"
).split()


@pytest.fixture
def server() -> InProcessServer:
    return InProcessServer()


@pytest.fixture
def client(server: InProcessServer) -> Client:
    return Client(server)


def info(client: Client, *sections: str) -> dict[str, Any]:
    parsed: dict[str, Any] = parse_info(client.send("INFO", *sections))  # type: ignore[no-untyped-call]
    return parsed


def titles(client: Client, *sections: str) -> list[str]:
    text = client.send("INFO", *sections).decode()
    return [line[2:] for line in text.splitlines() if line.startswith("# ")]


def test_tools_find_what_they_read(client: Client) -> None:
    assert set(READ_BY_TOOLS) <= info(client).keys()


def test_versions_are_the_compatibility_level_and_kvd_s_own() -> None:
    settings = Settings().replaced({"compat.redis_version": "7.0.11"})
    found = info(Client(InProcessServer(settings)), "server")
    assert found["redis_version"] == "7.0.11"
    assert found["kvd_version"] == kvd.__version__


def test_a_client_that_waits_for_loading_goes_on(client: Client) -> None:
    assert info(client)["loading"] == 0


def test_sections_are_chosen_by_name_in_any_case(client: Client) -> None:
    assert titles(client, "KEYSPACE", "server", "nothing") == ["Server", "Keyspace"]
    assert client.send("INFO", "nothing") == b""


def test_words_stand_for_several_sections(client: Client) -> None:
    everything, default = titles(client, "everything"), titles(client)
    assert default == titles(client, "default")
    assert set(everything) - set(default) == {"Commandstats", "Latencystats"}
    assert set(everything) - set(titles(client, "all")) == {"Modules"}


def test_sections_are_parted_as_redis_parts_them(client: Client) -> None:
    assert (
        client.send("INFO", "cluster", "keyspace") == b"# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\n"
    )


def test_keyspaces_are_counted(client: Client) -> None:
    assert "db0" not in info(client, "keyspace")
    client.send("SET", "a", 1)
    client.send("SET", "b", 1, "EX", 100)
    client.send("SELECT", 5)
    client.send("SET", "c", 1)
    found = info(client, "keyspace")
    assert found == {
        "db0": {"keys": 2, "expires": 1, "avg_ttl": 0},
        "db5": {"keys": 1, "expires": 0, "avg_ttl": 0},
    }


def test_clients_are_counted_by_what_they_do(server: InProcessServer, client: Client) -> None:
    others = [Client(server) for _ in range(3)]
    others[0].send("SUBSCRIBE", "channel")
    others[1].send("WATCH", "a", "b")
    others[2].send("WAIT", 1, 0)
    found = info(client, "clients")
    assert found["connected_clients"] == 4
    assert found["pubsub_clients"] == 1
    assert (found["watching_clients"], found["total_watched_keys"]) == (1, 2)
    assert found["blocked_clients"] == 1


def test_calls_refusals_and_failures_are_counted_by_command(client: Client) -> None:
    client.send("SET", "key", "text")
    client.send("INCR", "key")
    client.send("GET")
    client.send("CLIENT", "ID")
    found = info(client, "commandstats", "errorstats", "stats")
    assert found["cmdstat_set"]["calls"] == 1
    assert found["cmdstat_incr"]["failed_calls"] == 1
    assert found["cmdstat_get"]["rejected_calls"] == 1
    assert found["cmdstat_client|id"]["calls"] == 1
    assert found["errorstat_ERR"] == {"count": 2}
    assert found["total_error_replies"] == 2
    assert found["total_commands_processed"] == 3  # INFO itself is booked when it returns


def test_any_error_of_a_script_is_shown_in_a_line_of_its_own(server: InProcessServer, client: Client) -> None:
    for word in (b"\xff\xc3\xa9", b"A:b#c", b"A\r\nuptime_in_seconds:7", b"x" * 1000):
        client.send("EVAL", "return {err = ARGV[1] .. ' text'}", 0, word)
    lines = client.send("INFO", "errorstats").decode().splitlines()
    words = ["\ufffd\u00e9", "A_b_c", "A__uptime_in_seconds_7", "x" * 64]
    assert lines == ["# Errorstats", *(f"errorstat_{word}:count=1" for word in words)]
    assert 'err="\ufffd\u00e9"' in metrics.render(server)


def test_a_pipeline_of_plain_commands_is_counted_whole(client: Client) -> None:
    client.raw(*[encode("SET", f"key:{number}", "x") for number in range(50)])
    assert info(client, "commandstats")["cmdstat_set"]["calls"] == 50


def test_hits_and_misses_of_reads_are_counted(client: Client) -> None:
    client.send("SET", "key", 1)
    client.send("GET", "key")
    client.send("GET", "nothing")
    client.send("MGET", "key", "nothing", "nowhere")
    found = info(client, "stats")
    assert (found["keyspace_hits"], found["keyspace_misses"]) == (2, 3)
    client.send("CONFIG", "RESETSTAT")
    found = info(client, "stats")
    assert (found["keyspace_hits"], found["keyspace_misses"]) == (0, 0)


def test_latency_percentiles_are_shown_for_what_was_called(client: Client) -> None:
    client.send("SET", "key", 1)
    found = info(client, "latencystats")
    assert found.keys() == {"latency_percentiles_usec_set"}
    assert found["latency_percentiles_usec_set"].keys() == {"p50", "p99", "p99.9"}


def test_memory_is_the_process_s_own(client: Client) -> None:
    found = info(client, "memory")
    assert found["used_memory"] == found["used_memory_rss"] > 10 << 20
    assert found["used_memory_peak"] >= found["used_memory"]
    assert found["maxmemory"] == 0
    assert 10 << 20 < found["used_memory_startup"] <= found["used_memory_peak"]


def test_cached_scripts_are_counted(client: Client) -> None:
    assert client.send("EVAL", "return 1", 0) == 1
    found = info(client, "memory")
    assert found["number_of_cached_scripts"] == 1
    assert found["used_memory_scripts_eval"] >= len("return 1")
    assert found["used_memory_lua"] > 0


def test_the_store_is_described(client: Client) -> None:
    client.send("SET", "key", 1)
    found = info(client, "storage")
    assert found["storage_durability"] == "everysec"
    assert found["storage_keys"] == 1
    assert found["storage_writable"] == 1


def test_resp3_gets_a_verbatim_text(client: Client) -> None:
    client.send("HELLO", 3)
    assert client.raw(encode("INFO", "cluster")).startswith(b"=34\r\ntxt:# Cluster\r\n")


# --- the parts


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.00K"),
        (1468006, "1.40M"),
        (1 << 40, "1.00T"),
        (1 << 60, "1024.00P"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert human(size) == text


def test_percentiles_lie_in_the_bucket_of_their_rank() -> None:
    stats = CommandStats()
    stats.timed = 100
    stats.histogram[10] = 90  # 512 to 1,023 ns
    stats.histogram[20] = 10  # up to a millisecond
    assert 512 <= percentile_nanoseconds(stats, 50) <= 1024
    assert percentile_nanoseconds(stats, 90) == 1024
    assert 1 << 19 <= percentile_nanoseconds(stats, 99) <= 1 << 20
    assert percentile_nanoseconds(CommandStats(), 50) == 0


def test_rates_are_averages_over_the_samples(server: InProcessServer, client: Client) -> None:
    sampler = Sampler(server)
    assert sampler.rates() == (0, 0, 0)
    sampler.sample(10.0)
    for _ in range(6):
        client.send("PING")
    server.stats.input_bytes += 1000
    sampler.sample(12.0)
    assert sampler.rates() == (3, 500, 0)
    sampler.reset()
    assert sampler.rates() == (0, 0, 0)


def test_old_samples_are_forgotten(server: InProcessServer, client: Client) -> None:
    sampler = Sampler(server)
    client.send("PING")
    sampler.sample(0.0)
    client.send("PING")
    for moment in range(1, 100):
        sampler.sample(float(moment))
    assert sampler.rates() == (0, 0, 0)


def test_the_process_knows_its_memory_and_time() -> None:
    assert process.resident_bytes() > 1 << 20
    assert process.system_bytes() > process.resident_bytes()
    assert process.processor_seconds()["user"] > 0
