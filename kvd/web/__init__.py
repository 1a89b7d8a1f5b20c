"""HTTP on the hub: the Workers KV protocols, health, metrics and what a dashboard needs.

    bytes ─ session ─▶ HttpReader ─▶ Front: route, who asks, may they ─▶ handler ─▶ Response | Job | Feed
                                        └─ body sink, chosen at the head

One module a protocol (`binding`, `rest`, `dashboard_api`), on shared rules (`rules`) and operations
(`records`, `listing`, `bulk`). Everything runs inside the hub's ticks; what takes long is a generator that
does one slice a tick (`jobs`).
"""
