"""lbd: a load-balancer daemon.

The plan of the house. Imports go down this list only (tests/test_layers.py walks them and fails otherwise):

    cli         the command: lbd -c, check, config, demo; exit codes
    master      one process: signals, sockets, workers' lives, probes, reload
    admin       /metrics, /healthz, /readyz and the JSON API, served by the master
    config      text (TOML with positions) -> schema (policies) -> build (live objects; the only factory)
    discovery   where endpoints come from: static, DNS
    worker      one worker process: listeners, applying a new table, drain
    filters     built-in filters on the hooks that users' filters use
    proxy       one request's life: exchange, retry (pure), HTTP/1 connection loop
    routing     a request -> a route: immutable, pure, indexed
    cluster     endpoints, selectors, hash rings, health state, connection pool
    wire        sans-io codecs: messages, HTTP/1
    core        reactor, timers, streams, signals, the board of shared numbers

`errors`, `policy` and `metrics` stand under all of them and import nothing of lbd.
"""

__version__ = "0.1.0"
