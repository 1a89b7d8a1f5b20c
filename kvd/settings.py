"""The settings of the daemon, as frozen attrs classes: one class a section, one field a setting.

The unit stands in each name; ranges, meaning, and the Redis CONFIG parameter that a setting
answers to stand in its declaration (`kvd.setting_spec`). A running daemon holds one `Settings`
object and replaces it as a whole (`Settings.replaced`), so a part that has read two fields in
one tick has read them from the same state.

Validation of one field is in its declaration; `contradictions` checks fields against each other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Final, Literal

import attrs

from kvd.setting_spec import (
    BYTES,
    GIB,
    INTEGERS,
    KIB,
    MIB,
    MODE,
    SECRETS,
    Secret,
    Setting,
    Value,
    choice,
    setting,
    settings_of,
)
from storage.changes import GROUP_MAX

AuthClients = Literal["no", "optional", "yes"]
TlsVersion = Literal["1.2", "1.3"]
Durability = Literal["always", "everysec", "no"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "console", "json"]
StaleWrites = Literal["deadletter", "replay", "discard"]
SkewPolicy = Literal["refuse", "warn"]
PublishReach = Literal["all", "local"]

# As many as a hello may name (`replication.messages`).
GROUPS_MAX: Final = 64
KEYSPACE_EVENT_LETTERS: Final = frozenset("KEg$lshzxetdmnA")


def _check_addresses(addresses: tuple[str, ...]) -> str | None:
    for address in addresses:
        try:
            ipaddress.ip_address(address.removeprefix("-"))
        except ValueError:
            return f'{address!r} is not an IP address; write "127.0.0.1", or "0.0.0.0" for every interface'
    return None


def _check_version(text: str) -> str | None:
    if re.fullmatch(r"\d{1,3}\.\d{1,3}\.\d{1,3}", text):
        return None
    return f'{text!r} is not a version; write three numbers with dots, such as "7.2.5"'


def _check_peer_addresses(addresses: tuple[str, ...]) -> str | None:
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
            return f'{address!r} is no address of a node; write host:port, such as "10.0.0.7:7379"'
    return None


def _check_networks(networks: tuple[str, ...]) -> str | None:
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            return f'{network!r} is not a network; write "10.0.0.0/8", or "192.0.2.7" for one address'
    return None


def _check_groups(groups: tuple[int, ...]) -> str | None:
    for group in groups:
        if not 1 <= group <= GROUP_MAX:
            return f"{group} is no group; use numbers from 1 to {GROUP_MAX}"
    if len(set(groups)) < len(groups):
        return "names a group twice"
    if len(groups) > GROUPS_MAX:
        return f"names {len(groups)} groups; a node carries at most {GROUPS_MAX}, as each has a vector of its own"
    return None


def _check_event_letters(text: str) -> str | None:
    wrong = sorted(set(text) - KEYSPACE_EVENT_LETTERS)
    if not wrong:
        return None
    return f"unknown event class {''.join(wrong)!r}; use letters of {''.join(sorted(KEYSPACE_EVENT_LETTERS))}"


@attrs.frozen
class ServerSettings:
    """Where the daemon listens, and what it expects of a connection."""

    bind: tuple[str, ...] = setting(
        ("127.0.0.1", "-::1"),
        """Addresses to listen on, for plain and TLS connections alike. A leading "-" means: go on
        without it if this machine does not have the address. An empty list opens no TCP port.""",
        check=_check_addresses,
        parameters=("bind",),
    )
    port: int = setting(
        6379,
        """TCP port for plain connections. 0 takes a free one (see --ports-file), -1 opens none.""",
        low=-1,
        high=65535,
        parameters=("port",),
    )
    unix_socket: str = setting(
        "",
        """Path of a unix socket to listen on as well; empty for none. A socket that a dead daemon
        left there is replaced, any other file is not.""",
        parameters=("unixsocket",),
    )
    unix_socket_permissions: int = setting(
        0o700,
        """File mode of the unix socket: who may write to it may connect.""",
        kind=MODE,
        low=0,
        high=0o777,
        parameters=("unixsocketperm",),
    )
    protected_mode: bool = setting(
        True,
        """Refuse connections from other machines as long as the default user has no password.""",
        parameters=("protected-mode",),
        runtime=True,
    )
    maxclients: int = setting(
        10_000,
        """Connections at the same time; one more is told so and closed. The limit of open files
        must allow for it.""",
        low=1,
        high=1_000_000,
        parameters=("maxclients",),
        runtime=True,
    )
    idle_timeout_seconds: int = setting(
        0,
        """Close a connection that has sent nothing, and taken nothing of a long answer, for so long; 0
        never does. Subscribers are exempt.""",
        low=0,
        high=2**31 - 1,
        parameters=("timeout",),
        runtime=True,
    )
    tcp_keepalive_seconds: int = setting(
        300,
        """Let the kernel probe silent TCP connections at this interval, so that dead ones are
        noticed; 0 does not.""",
        low=0,
        high=2**31 - 1,
        parameters=("tcp-keepalive",),
        runtime=True,
    )
    tcp_backlog: int = setting(
        511,
        """Connections that may wait to be accepted. The kernel caps it (net.core.somaxconn on
        Linux).""",
        low=1,
        high=65535,
        parameters=("tcp-backlog",),
    )
    tls_port: int = setting(
        -1,
        """TCP port for TLS connections. 0 takes a free one, -1 opens none.""",
        low=-1,
        high=65535,
        parameters=("tls-port",),
    )
    tls_cert_file: str = setting(
        "",
        """Certificate chain that the daemon shows, PEM. Needed with tls_port.""",
        parameters=("tls-cert-file",),
    )
    tls_key_file: str = setting(
        "",
        """Private key of the certificate, PEM, without a passphrase. Needed with tls_port.""",
        parameters=("tls-key-file",),
    )
    tls_ca_file: str = setting(
        "",
        """Authorities that client certificates are checked against, PEM. Needed when
        tls_auth_clients asks for certificates.""",
        parameters=("tls-ca-cert-file",),
    )
    tls_auth_clients: AuthClients = setting(
        "no",
        """Whether a TLS client must show a certificate: "yes" refuses those without, "optional"
        checks what is shown, "no" does not ask.""",
        kind=choice("no", "optional", "yes"),
        parameters=("tls-auth-clients",),
    )
    tls_min_version: TlsVersion = setting(
        "1.2",
        """Oldest TLS version that is spoken.""",
        kind=choice("1.2", "1.3"),
    )
    tls_handshake_seconds: int = setting(
        10,
        """A TLS client that has not finished its handshake after so long is closed.""",
        low=1,
        high=600,
    )


@attrs.frozen
class SecuritySettings:
    """Who may do what. Users live in one place: here, or in a file of their own that ACL SAVE writes."""

    requirepass: Secret = setting(
        Secret(),
        """Password of the default user; empty asks for none. Prefer the environment
        (KVD_SECURITY__REQUIREPASS) to a file that others can read.""",
        parameters=("requirepass",),
        runtime=True,
    )
    acl_file: str = setting(
        "",
        """File with one user a line, as ACL SAVE writes it; empty for none.""",
        parameters=("aclfile",),
    )
    users: tuple[Secret, ...] = setting(
        (),
        """Users with their rules, as in a line of an ACL file but without the word user:
        "alice on >secret ~cache:* +@read". In an environment variable, separate them by
        semicolons. Not together with acl_file.""",
        kind=SECRETS,
    )
    acl_log_max_len: int = setting(
        128,
        """Refusals that ACL LOG remembers.""",
        low=0,
        high=1_000_000,
        parameters=("acllog-max-len",),
        runtime=True,
    )


@attrs.frozen
class StorageSettings:
    """Where records are kept, how safely, and with how much memory."""

    data_dir: str = setting(
        "./data",
        """Directory of the database, made if it is missing; relative to the directory that the
        daemon is started in. One daemon at a time may use it.""",
        parameters=("dir",),
    )
    durability: Durability = setting(
        "everysec",
        """When a write is on the disk itself. "always": before its reply, so a power cut loses
        nothing that was acknowledged. "everysec": within a second. "no": when the operating system
        gets to it. In all three the operating system has the write before the reply, so a killed
        daemon loses nothing.""",
        kind=choice("always", "everysec", "no"),
        parameters=("appendfsync",),
        runtime=True,
    )
    encryption_key_file: str = setting(
        "",
        """File with the keys that values and metadata are encrypted with on the disk, made by `kvd
        encryption-key new`; empty: they are not. Only the daemon's user may be able to read it, and
        without it nobody can read the data. Keys change without a restart: `kvd encryption-key
        rotate`, then SIGHUP or KV.ENCRYPTION RELOAD. See docs/encryption.md.""",
    )
    cache_bytes: int = setting(
        256 * MIB,
        """Memory for decoded records that were used lately. A read that finds its record here
        touches no disk structure.""",
        kind=BYTES,
        low=1 * MIB,
        high=1024 * GIB,
        runtime=True,
    )
    block_cache_bytes: int = setting(
        128 * MIB,
        """Memory for the database's own blocks, indexes and filters: what a read needs that finds
        no decoded record.""",
        kind=BYTES,
        low=1 * MIB,
        high=1024 * GIB,
    )
    key_bytes_max: int = setting(
        2 * KIB,
        """Longest key that is accepted.""",
        kind=BYTES,
        low=1,
        high=64 * KIB,
        runtime=True,
    )
    value_bytes_max: int = setting(
        25 * MIB,
        """Longest value that is accepted.""",
        kind=BYTES,
        low=1,
        high=512 * MIB,
        runtime=True,
    )
    metadata_bytes_max: int = setting(
        1024,
        """Longest metadata (JSON text) that is accepted.""",
        kind=BYTES,
        low=1,
        high=64 * KIB,
        runtime=True,
    )
    gc_min_age_seconds: int = setting(
        3600,
        """How long the mark of a deleted key is kept at least, so that an older write that arrives
        late does not bring the key back. More costs disk space after many deletions.""",
        low=0,
        high=2**31 - 1,
        runtime=True,
    )
    sweep_interval_ms: int = setting(
        100,
        """Time between two slices of the sweep that removes expired keys and old marks of
        deletion. Expired keys are invisible before it; it only gives their space back.""",
        low=10,
        high=60_000,
        runtime=True,
    )
    sweep_rows_max: int = setting(
        1000,
        """Rows that one slice of the sweep looks at. More sweeps faster and delays the clients of
        that moment for longer.""",
        low=1,
        high=100_000,
        runtime=True,
    )


@attrs.frozen
class ClientsSettings:
    """What one connection may make the daemon hold for it.

    Output limits stand for three classes of clients. Past the hard limit a connection is closed at
    once; past the soft limit, when it stays there for so many seconds. 0 means no limit.
    """

    query_buffer_bytes_max: int = setting(
        1 * GIB,
        """Request bytes that may be held for one connection; more closes it.""",
        kind=BYTES,
        low=1 * MIB,
        high=64 * GIB,
        parameters=("client-query-buffer-limit",),
        runtime=True,
    )
    bulk_bytes_max: int = setting(
        512 * MIB,
        """Longest single argument of a request; a longer one is a protocol error.""",
        kind=BYTES,
        low=1 * MIB,
        high=2 * GIB - 1,
        parameters=("proto-max-bulk-len",),
        runtime=True,
    )
    output_normal_hard_bytes: int = setting(
        0,
        """Replies that may wait for an ordinary client. A client that does not read is not read
        from either, so this is bounded by what one pipeline of it asks for.""",
        kind=BYTES,
        low=0,
        parameters=("client-output-buffer-limit",),
        runtime=True,
    )
    output_normal_soft_bytes: int = setting(
        0,
        """Soft limit of the same.""",
        kind=BYTES,
        low=0,
        parameters=("client-output-buffer-limit",),
        runtime=True,
    )
    output_normal_soft_seconds: int = setting(
        0,
        """How long an ordinary client may stay above its soft limit.""",
        low=0,
        parameters=("client-output-buffer-limit",),
        runtime=True,
    )
    output_replica_hard_bytes: int = setting(
        256 * MIB,
        """The same for replicas. kvd has none on this protocol; the limit is kept for tools that
        read and write it with CONFIG.""",
        kind=BYTES,
        low=0,
        parameters=("client-output-buffer-limit",),
        runtime=True,
    )
    output_replica_soft_bytes: int = setting(
        64 * MIB,
        """Soft limit of the same.""",
        kind=BYTES,
        low=0,
        parameters=("client-output-buffer-limit",),
        runtime=True,
    )
    output_replica_soft_seconds: int = setting(
        60,
        """How long a replica may stay above its soft limit.""",
        low=0,
        parameters=("client-output-buffer-limit",),
        runtime=True,
    )
    output_pubsub_hard_bytes: int = setting(
        32 * MIB,
        """Messages that may wait for a subscriber.""",
        kind=BYTES,
        low=0,
        parameters=("client-output-buffer-limit",),
        runtime=True,
    )
    output_pubsub_soft_bytes: int = setting(
        8 * MIB,
        """Soft limit of the same.""",
        kind=BYTES,
        low=0,
        parameters=("client-output-buffer-limit",),
        runtime=True,
    )
    output_pubsub_soft_seconds: int = setting(
        60,
        """How long a subscriber may stay above its soft limit.""",
        low=0,
        parameters=("client-output-buffer-limit",),
        runtime=True,
    )


@attrs.frozen
class ScriptingSettings:
    """Bounds for Lua scripts."""

    time_limit_ms: int = setting(
        5000,
        """After so long a running script no longer makes the others wait in silence: they are
        answered BUSY, and SCRIPT KILL may end it. 0 means no limit.""",
        low=0,
        high=2**31 - 1,
        parameters=("busy-reply-threshold", "lua-time-limit"),
        runtime=True,
    )
    memory_bytes_max: int = setting(
        64 * MIB,
        """Memory that Lua may use; a script that needs more fails.""",
        kind=BYTES,
        low=1 * MIB,
        high=4 * GIB,
    )


@attrs.frozen
class CompatSettings:
    """What the daemon tells clients about its likeness to Redis."""

    redis_version: str = setting(
        "7.2.5",
        """Version of Redis that HELLO and INFO report. Clients choose their commands by it.""",
        check=_check_version,
    )
    databases: int = setting(
        16,
        """Databases that SELECT reaches.""",
        low=1,
        high=16,
        parameters=("databases",),
    )


@attrs.frozen
class LogSettings:
    """What the daemon writes down about itself. Keys and values never appear in the log."""

    level: LogLevel = setting(
        "info",
        """Least important events that are written.""",
        kind=choice("debug", "info", "warning", "error"),
        parameters=("loglevel",),
        runtime=True,
    )
    format: LogFormat = setting(
        "auto",
        """"console" is for people, "json" for machines, one object a line; "auto" takes console on
        a terminal and json elsewhere.""",
        kind=choice("auto", "console", "json"),
    )
    file: str = setting(
        "",
        """File to append to instead of standard error. SIGHUP opens it anew, for log rotation.""",
        parameters=("logfile",),
    )
    slowlog_log_slower_than_us: int = setting(
        10_000,
        """Commands that run longer than this are kept for SLOWLOG GET; 0 keeps every one, -1
        none.""",
        low=-1,
        parameters=("slowlog-log-slower-than",),
        runtime=True,
    )
    slowlog_max_len: int = setting(
        128,
        """Entries that the slow log holds.""",
        low=0,
        high=1_000_000,
        parameters=("slowlog-max-len",),
        runtime=True,
    )
    latency_monitor_threshold_ms: int = setting(
        0,
        """Events that take at least so long are kept for LATENCY; 0 keeps none.""",
        low=0,
        parameters=("latency-monitor-threshold",),
        runtime=True,
    )


@attrs.frozen
class EventsSettings:
    """What is told to clients who listen for changes."""

    notify_keyspace_events: str = setting(
        "",
        """Classes of keyspace events that are published, as letters: K and E choose the channels,
        g$xnmtd... the events, A stands for most. Empty publishes none and costs nothing.""",
        check=_check_event_letters,
        parameters=("notify-keyspace-events",),
        runtime=True,
    )
    tracking_table_max_keys: int = setting(
        1_000_000,
        """Keys remembered for client-side caching. Past it, keys are invalidated before their time
        to make room. 0 means no limit.""",
        low=0,
        parameters=("tracking-table-max-keys",),
        runtime=True,
    )


@attrs.frozen
class HttpSettings:
    """The HTTP port: Workers KV (binding protocol and REST v4), dashboard, health and metrics.

    Addresses and certificates are those of the server section. Without any API token it answers clients on this
    machine only.
    """

    port: int = setting(
        8379,
        """TCP port for HTTP. 0 takes a free one (see --ports-file), -1 opens none.""",
        low=-1,
        high=65535,
    )
    tls_port: int = setting(
        -1,
        """TCP port for HTTP over TLS, with the certificate of the server section. 0 takes a free one, -1
        opens none.""",
        low=-1,
        high=65535,
    )
    unix_socket: str = setting(
        "",
        """Path of a unix socket to serve HTTP on as well; empty for none.""",
    )
    unix_socket_permissions: int = setting(
        0o700,
        """File mode of that socket.""",
        kind=MODE,
        low=0,
        high=0o777,
    )
    hosts: tuple[str, ...] = setting(
        (),
        """Names, beside those of this machine, under which HTTP may be reached without a token. A page
        of a stranger can make a browser ask under a name of its own; with tokens, any name will do.""",
        runtime=True,
    )
    namespace: str = setting(
        "default",
        """Title of the namespace that a Worker's requests mean which do not name one. It is made by the
        first write.""",
        check=lambda title: None if 1 <= len(title) <= 512 else "a title has 1 to 512 characters",
        runtime=True,
    )
    min_ttl_seconds: int = setting(
        60,
        """Shortest life of a key over HTTP. Workers KV refuses less than 60; code that needs codes of ten
        seconds works with 1 here.""",
        low=1,
        high=86_400,
        runtime=True,
    )
    body_bytes_max: int = setting(
        100_000_000,
        """Largest body of a bulk request. What single values may have is storage.value_bytes_max.""",
        kind=BYTES,
        low=1 * MIB,
        high=4 * GIB,
        runtime=True,
    )
    head_seconds: int = setting(
        10,
        """A client that has not sent the whole head of a request after so long is closed.""",
        low=1,
        high=600,
        runtime=True,
    )
    body_seconds: int = setting(
        30,
        """A client that sends nothing for so long in the middle of a body is closed.""",
        low=1,
        high=3600,
        runtime=True,
    )
    idle_seconds: int = setting(
        600,
        """A connection without a request is closed after so long. Runtimes keep theirs in a pool.""",
        low=1,
        high=86_400,
        runtime=True,
    )


@attrs.frozen
class PeersSettings:
    """Other nodes of the same cluster. Without a port this node stays alone and none of it costs anything.

    Peers prove to each other that they belong together: by a certificate each (cert_file), or by a
    secret that all of them hold (secret_file). `kvd cluster init` makes either.
    """

    port: int = setting(
        -1,
        """TCP port for peers. 0 takes a free one (see --ports-file), -1 opens none: a single node.""",
        low=-1,
        high=65535,
    )
    bind: str = setting(
        "0.0.0.0",  # noqa: S104 -- peers are elsewhere, and prove who they are before anything is read
        """Address to listen on for peers. They are on other machines as a rule; nothing is read from
        a connection before it has proved that it belongs to the cluster.""",
        check=lambda address: _check_addresses((address,)),
    )
    join: tuple[str, ...] = setting(
        (),
        """Nodes to begin with, as host:port; a name with several addresses stands for all of them, and is
        resolved anew for each attempt. One that is up is enough, the others are learned from it; the node
        itself may be among them. Empty on the first node of a new cluster, and there only.""",
        check=_check_peer_addresses,
    )
    advertise: tuple[str, ...] = setting(
        (),
        """How others reach this node, as host:port. Empty: the host name of this machine and the port,
        or the bound address if it is a single one.""",
        check=_check_peer_addresses,
    )
    dialable: bool = setting(
        True,
        """Whether others can open connections to this node. A node behind address translation says
        false: it opens some itself, and is equal to the others in all else.""",
    )
    secret_file: str = setting(
        "",
        """File with the cluster's secrets, one a line. Any of them is accepted, the first is used: a new
        one is put first on one node after the other.""",
    )
    cert_file: str = setting(
        "",
        """Certificate of this node, PEM, made by `kvd cluster init`. The file may hold the private key
        and the cluster's authority as well, as that command writes it; then the other two stay empty.""",
    )
    key_file: str = setting("", """Private key of the certificate, PEM, if it is in a file of its own.""")
    ca_file: str = setting(
        "",
        """The cluster's own authorities, PEM, if they are in a file of their own: whoever has a certificate
        of one of them is a peer.""",
    )
    allow: tuple[str, ...] = setting(
        (),
        """Networks that peers may have their addresses in; addresses that others tell are dialled only
        there. Empty allows all.""",
        check=_check_networks,
    )
    zone: str = setting(
        "",
        """Where this node stands, as a word that nodes near to each other share (a data centre, a rack).
        Used to choose links in clusters that are too large for each to know each.""",
    )
    groups: tuple[int, ...] = setting(
        (),
        """Groups of namespaces that this node carries, beside what all nodes carry. A namespace is put into a
        group when it is made (KV.NS CREATE ... REPLICATE GROUP), and only nodes that carry the group keep its
        records. A group may be added with a restart; a member of a cluster cannot give one up. It holds
        without peers, too.""",
        kind=INTEGERS,
        check=_check_groups,
    )
    full_mesh_max: int = setting(
        32,
        """Up to so many nodes everybody is linked with everybody. Above, each keeps some eight links,
        and what is written travels along them.""",
        low=2,
        high=1000,
    )
    max_offline_seconds: int = setting(
        7 * 86400,
        """How long a member may be away. One that does not come back is removed after this time, if most
        others agree; until then marks of deletion are kept for it. It must be the same on all nodes.""",
        low=60,
        high=2**31 - 1,
    )
    stale_writes: StaleWrites = setting(
        "deadletter",
        """What becomes of writes of this node that nobody else has seen when it comes back after more than
        max_offline_seconds, or from an old backup: "deadletter" undoes them and keeps them in
        dead-letters.jsonl in the data directory, "replay" writes them anew, "discard" undoes them.""",
        kind=choice("deadletter", "replay", "discard"),
    )
    clock_max_offset_ms: int = setting(
        1000,
        """A clock that is further from those of the others than this refuses to stamp writes.""",
        low=10,
        high=60_000,
    )
    clock_hold_seconds: int = setting(
        60,
        """Writes stamped further in the future than this wait, with all that their node wrote after
        them, until their time has come. At least ten times clock_max_offset_ms.""",
        low=1,
        high=3600,
    )
    clock_on_skew: SkewPolicy = setting(
        "refuse",
        """What a node does whose own clock is wrong: "refuse" writes of clients with CLOCKSKEW, or
        "warn" in log and metrics only.""",
        kind=choice("refuse", "warn"),
    )
    purge_interval_seconds: int = setting(
        10,
        """Time between two looks at which marks of deletion all members have, so that they may go.
        storage.gc_min_age_seconds is the least age of what goes.""",
        low=1,
        high=3600,
    )
    sync_interval_seconds: int = setting(
        15,
        """About how often this node compares what it has with a peer, whether or not it misses
        anything.""",
        low=1,
        high=3600,
    )
    sync_bytes_a_second_max: int = setting(
        0,
        """Most that is sent to one peer that catches up, so that clients have the rest of the network; 0 sets no
        limit.""",
        kind=BYTES,
        low=0,
        high=1024 * GIB,
    )
    verify_interval_seconds: int = setting(
        600,
        """How often all records are compared with those of a peer, by hashes; what differs is mended and
        reported.""",
        low=1,
        high=7 * 86400,
    )
    replicate_acl_users: bool = setting(
        False,
        """Whether ACL SETUSER and DELUSER hold on all nodes that say so. Users of acl_file and
        security.users stay each node's own until they are changed by a command.""",
    )
    publish: PublishReach = setting(
        "all",
        """Whether PUBLISH reaches the subscribers of all linked nodes or of this one only.""",
        kind=choice("all", "local"),
        runtime=True,
    )
    publish_local_prefixes: tuple[str, ...] = setting(
        (),
        """Channels whose names begin with one of these stay on their node.""",
        runtime=True,
    )


@attrs.frozen
class Settings:
    """All settings of one daemon."""

    server: ServerSettings = ServerSettings()
    security: SecuritySettings = SecuritySettings()
    storage: StorageSettings = StorageSettings()
    clients: ClientsSettings = ClientsSettings()
    scripting: ScriptingSettings = ScriptingSettings()
    compat: CompatSettings = CompatSettings()
    log: LogSettings = LogSettings()
    events: EventsSettings = EventsSettings()
    http: HttpSettings = HttpSettings()
    peers: PeersSettings = PeersSettings()

    def value(self, name: str) -> Value:
        """Return the value of the setting called `name` (``section.field``)."""
        section, _, field = name.partition(".")
        return getattr(getattr(self, section), field)

    def replaced(self, values: dict[str, Value]) -> Settings:
        """Return settings with some values changed, given by name.

        Raises ValueError with a sentence for a value out of range. Does not look for
        contradictions: ask `contradictions` about the result.
        """
        by_section: dict[str, dict[str, Value]] = {}
        for name, value in values.items():
            section, _, field = name.partition(".")
            by_section.setdefault(section, {})[field] = value
        changed = {
            section: attrs.evolve(getattr(self, section), **fields) for section, fields in by_section.items()
        }
        return attrs.evolve(self, **changed)


SECTIONS: Final[dict[str, type[Any]]] = {
    "server": ServerSettings,
    "security": SecuritySettings,
    "storage": StorageSettings,
    "clients": ClientsSettings,
    "scripting": ScriptingSettings,
    "compat": CompatSettings,
    "log": LogSettings,
    "events": EventsSettings,
    "http": HttpSettings,
    "peers": PeersSettings,
}

# Every setting by its full name, in the order of the classes.
SETTINGS: Final[dict[str, Setting]] = {
    each.name: each for section, cls in SECTIONS.items() for each in settings_of(section, cls)
}


def contradictions(settings: Settings) -> list[tuple[str, str]]:
    """Return (setting, sentence) for each setting that does not go together with others."""
    server, security = settings.server, settings.security
    found: list[tuple[str, str]] = []
    if server.tls_port >= 0 and not server.tls_cert_file:
        found.append(
            ("server.tls_cert_file", "is needed to serve TLS; name a PEM file, or set tls_port = -1")
        )
    if server.tls_port >= 0 and not server.tls_key_file:
        found.append(("server.tls_key_file", "is needed to serve TLS; name a PEM file, or set tls_port = -1"))
    if server.tls_auth_clients != "no" and not server.tls_ca_file:
        found.append(
            ("server.tls_ca_file", 'is needed to check client certificates, or set tls_auth_clients = "no"')
        )
    if not _has_way_in(settings):
        found.append(
            ("server.port", "leaves no way in; open a port, with an address in server.bind, or a unix socket")
        )
    if server.port == server.tls_port > 0:
        found.append(("server.tls_port", "is the same as server.port; one port speaks one protocol"))
    if security.acl_file and security.users:
        found.append(("security.users", "cannot stand beside acl_file; move the users into that file"))
    return [*found, *_http_contradictions(settings), *_peer_contradictions(settings)]


def _has_way_in(settings: Settings) -> bool:
    """Tell whether anybody could reach the daemon, be it peers alone."""
    server, http, peers = settings.server, settings.http, settings.peers
    has_port = max(server.port, server.tls_port, http.port, http.tls_port) >= 0
    return bool((has_port and server.bind) or server.unix_socket or http.unix_socket or peers.port >= 0)


def _http_contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    server, http = settings.server, settings.http
    if http.tls_port >= 0 and not (server.tls_cert_file and server.tls_key_file):
        yield "http.tls_port", "needs server.tls_cert_file and server.tls_key_file"
    taken = {server.port, server.tls_port}
    for name, port in (("http.port", http.port), ("http.tls_port", http.tls_port)):
        if port > 0 and port in taken:
            yield name, "is another port of this daemon already; one port speaks one protocol"
        taken.add(port)
    if http.unix_socket and http.unix_socket == server.unix_socket:
        yield "http.unix_socket", "is the socket of Redis clients already"


def _peer_contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    peers = settings.peers
    if peers.port < 0:
        if peers.join:
            yield "peers.join", "needs a port for peers; set peers.port (--peer-port), 0 takes a free one"
        if peers.advertise:
            yield "peers.advertise", "needs a port for peers; set peers.port (--peer-port)"
        return
    has_certificate = bool(peers.cert_file or peers.key_file or peers.ca_file)
    if peers.secret_file and has_certificate:
        yield "peers.secret_file", "cannot stand beside a certificate; a cluster uses one or the other"
    elif has_certificate and not peers.cert_file:
        yield "peers.cert_file", "is needed beside key_file and ca_file"
    elif not peers.secret_file and not has_certificate:
        yield "peers.port", "needs a credential, secret_file or cert_file; `kvd cluster init` makes either"
    server, http = settings.server, settings.http
    if peers.port > 0 and peers.port in {server.port, server.tls_port, http.port, http.tls_port}:
        yield "peers.port", "is a port for clients already; peers need one of their own"
    if not peers.dialable and peers.advertise:
        yield "peers.advertise", "says how others reach this node, which dialable = false denies"
    if not peers.dialable and not peers.join:
        yield "peers.join", "is needed on a node that others cannot reach (dialable = false)"
    if peers.clock_hold_seconds * 1000 < 10 * peers.clock_max_offset_ms:
        yield "peers.clock_hold_seconds", "must be at least ten times clock_max_offset_ms"
