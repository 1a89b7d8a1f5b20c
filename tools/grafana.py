"""conf/grafana-dashboard.json, from a table of rows and panels: `make docs` writes it.

A panel is a title, a unit of Grafana, and queries with their legends. `INSTANCES` selects the nodes that are chosen
above the dashboard. Layout, colours and the rest are the same everywhere and stand in one place.
"""

from __future__ import annotations

import json
from typing import Any, Final

import attrs

_WIDTH: Final = 24  # Grafana's grid
_PANEL_WIDTH: Final = 8
_PANEL_HEIGHT: Final = 7
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_NODES: Final = 'job=~"$job",instance=~"$instance"'
_PAIR: Final = "{{instance}} → {{peer}}"


@attrs.frozen
class Query:
    """`INSTANCES` in the expression stands for the selection of nodes."""

    expression: str
    legend: str = "{{instance}}"


@attrs.frozen
class Panel:
    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""


@attrs.frozen
class Row:
    title: str
    panels: tuple[Panel, ...]


def _rate(metric: str, by: str = "instance") -> str:
    return f"sum by ({by}) (rate({metric}{{INSTANCES}}[$__rate_interval]))"


def _quantiles(metric: str) -> tuple[Query, ...]:
    rate = f"sum by (le) (rate({metric}_bucket{{INSTANCES}}[$__rate_interval]))"
    return tuple(
        Query(f"histogram_quantile({share}, {rate})", f"p{share * 100:g}") for share in (0.5, 0.99, 0.999)
    )


ROWS: Final = (
    Row(
        "Requests",
        (
            Panel("Commands of Redis clients", "ops", (Query(_rate("redis_commands_processed_total")),)),
            Panel(
                "HTTP requests",
                "reqps",
                (Query(_rate("kvd_http_requests_total", "interface"), "{{interface}}"),),
            ),
            Panel("How long HTTP requests took", "s", _quantiles("kvd_http_request_duration_seconds")),
            Panel(
                "Mean time of a command",
                "s",
                (
                    Query(
                        f"topk(8, {_rate('redis_commands_duration_seconds_total', 'cmd')} / "
                        f"{_rate('redis_commands_total', 'cmd')})",
                        "{{cmd}}",
                    ),
                ),
            ),
            Panel(
                "Errors",
                "ops",
                (
                    Query(_rate("redis_errors_total", "err"), "{{err}}"),
                    Query(
                        'sum by (status) (rate(kvd_http_requests_total{INSTANCES,status=~"[45].."}[$__rate_interval]))',
                        "HTTP {{status}}",
                    ),
                ),
            ),
            Panel(
                "Look-ups that found their key",
                "percentunit",
                (
                    Query(
                        f"{_rate('redis_keyspace_hits_total')} / ({_rate('redis_keyspace_hits_total')} + "
                        f"{_rate('redis_keyspace_misses_total')})"
                    ),
                ),
            ),
        ),
    ),
    Row(
        "Clients and the machine",
        (
            Panel(
                "Clients",
                "short",
                (
                    Query("redis_connected_clients{INSTANCES}", "{{instance}} Redis"),
                    Query("kvd_http_connections{INSTANCES}", "{{instance}} HTTP"),
                    Query("kvd_http_streams{INSTANCES}", "{{instance}} change streams"),
                ),
            ),
            Panel(
                "Network",
                "Bps",
                (
                    Query(_rate("redis_net_input_bytes_total"), "{{instance}} in"),
                    Query(_rate("redis_net_output_bytes_total"), "{{instance}} out"),
                ),
            ),
            Panel("Connections refused", "ops", (Query(_rate("redis_rejected_connections_total")),)),
            Panel(
                "Processor",
                "percentunit",
                (
                    Query(_rate("redis_cpu_user_seconds_total"), "{{instance}} user"),
                    Query(_rate("redis_cpu_sys_seconds_total"), "{{instance}} system"),
                ),
                "1 is one core; the daemon's own work is done by one thread.",
            ),
            Panel("Memory", "bytes", (Query("redis_memory_used_rss_bytes{INSTANCES}"),)),
            Panel(
                "The longest stop of the loop",
                "s",
                (Query("kvd_peers_loop_stall_seconds{INSTANCES}"),),
                "Nobody was answered for so long, once since the start.",
            ),
        ),
    ),
    Row(
        "Records",
        (
            Panel("Keys", "short", (Query("sum by (instance) (redis_db_keys{INSTANCES})", "{{instance}}"),)),
            Panel(
                "Largest namespaces",
                "short",
                (Query("topk(8, max by (title) (kvd_namespace_keys{INSTANCES}))", "{{title}}"),),
            ),
            Panel("Keys that expired", "ops", (Query(_rate("redis_expired_keys_total")),)),
            Panel("Ticks", "ops", (Query(_rate("kvd_ticks_total")),), "Each is one commit at most."),
            Panel("Ticks whose commit failed", "ops", (Query(_rate("kvd_ticks_failed_total")),)),
            Panel(
                "Marks that replication keeps",
                "short",
                (
                    Query("kvd_peers_tombstones{INSTANCES}", "{{instance}} deleted"),
                    Query("kvd_peers_expired_headers{INSTANCES}", "{{instance}} expired"),
                ),
            ),
        ),
    ),
    Row(
        "Between nodes",
        (
            Panel(
                "From a write to its arrival",
                "s",
                _quantiles("kvd_peers_propagation_seconds"),
                "By the clocks of both nodes.",
            ),
            Panel("Writes that a peer lacks", "short", (Query("kvd_peers_lag_dots{INSTANCES}", _PAIR),)),
            Panel("Age of what a peer has", "s", (Query("kvd_peers_lag_seconds{INSTANCES}", _PAIR),)),
            Panel("Round trip", "s", (Query("kvd_peers_peer_rtt_seconds{INSTANCES}", _PAIR),)),
            Panel("Clock of a peer", "s", (Query("kvd_peers_peer_clock_offset_seconds{INSTANCES}", _PAIR),)),
            Panel("Waiting to be sent", "bytes", (Query("kvd_peers_queue_bytes{INSTANCES}", _PAIR),)),
            Panel(
                "Links",
                "short",
                (Query("sum by (instance) (kvd_peers_peer_linked{INSTANCES})"),),
                "To how many members a node is linked.",
            ),
            Panel(
                "Members by state",
                "short",
                (Query("count by (state) (kvd_peers_peer_state{INSTANCES})", "{{state}}"),),
                "As each node sees the others: one for every pair.",
            ),
            Panel(
                "Doubt in itself",
                "short",
                (Query("kvd_peers_health{INSTANCES}"),),
                "0: a node judges others at once; above, it first waits so many times longer.",
            ),
            Panel(
                "Fresh writes",
                "ops",
                (
                    Query(_rate("kvd_peers_push_sent_total"), "{{instance}} sent"),
                    Query(_rate("kvd_peers_changes_applied_total"), "{{instance}} applied"),
                    Query(_rate("kvd_peers_push_duplicate_total"), "{{instance}} twice"),
                ),
            ),
            Panel(
                "Exchanges of what was missed",
                "ops",
                (
                    Query(_rate("kvd_peers_sync_ended_total"), "{{instance}} ended"),
                    Query(_rate("kvd_peers_sync_failed_total"), "{{instance}} failed"),
                ),
            ),
            Panel("Writes that lost a conflict", "ops", (Query(_rate("kvd_peers_conflicts_total")),)),
        ),
    ),
)


def dashboard() -> str:
    """Return the dashboard as JSON, as Grafana imports it."""
    return json.dumps(_dashboard(), indent=1, ensure_ascii=False) + "\n"


def _dashboard() -> dict[str, Any]:
    return {
        "title": "kvd",
        "uid": "kvd",
        "tags": ["kvd"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": [_source(), *(_variable(name) for name in ("job", "instance"))]},
        "panels": _panels(),
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}


def _variable(name: str) -> dict[str, Any]:
    chosen = '{job=~"$job"}' if name == "instance" else ""
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values(kvd_ticks_total{chosen}, {name})",
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row in ROWS:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": row.title, "gridPos": _place(0, y, _WIDTH, 1)}
        )
        y += 1
        for index, panel in enumerate(row.panels):
            column = index % (_WIDTH // _PANEL_WIDTH)
            place = _place(column * _PANEL_WIDTH, y, _PANEL_WIDTH, _PANEL_HEIGHT)
            panels.append(_panel(len(panels) + 1, panel, place))
            if column == _WIDTH // _PANEL_WIDTH - 1 or index == len(row.panels) - 1:
                y += _PANEL_HEIGHT
    return panels


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": None, "custom": {"fillOpacity": 8}},
            "overrides": [],
        },
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": query.expression.replace("INSTANCES", _NODES),
                "legendFormat": query.legend,
            }
            for index, query in enumerate(panel.queries)
        ],
    }
