"""consistent-hash against a real nginx: key by key the same endpoint as `hash $arg_k consistent`."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.cluster.fakes import Facts, filled_cluster
from tests.support.http import Downstream
from tests.support.ports import free_ports
from tests.support.processes import find_program, start_nginx

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(find_program("nginx") is None, reason="needs nginx")

KEYS = 5000

CONFIG = """
daemon off;
user root;  # else the worker cannot reach the sockets in our directory; without effect when we are not root
worker_processes 1;
error_log {directory}/error.log warn;
pid {directory}/nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    keepalive_requests 1000000;
    upstream u {{ hash $arg_k consistent; {members} keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    }}
    {origins}
}}
"""


def members_on(directory: Path, ports: list[int]) -> list[Facts]:
    """Weights from 1 to 50, several ports of one host, several hosts with one port, IPv6, unix sockets."""
    a, b, c, shared = ports
    weights = {
        f"127.0.0.1:{a}": 1,
        f"127.0.0.1:{b}": 5,
        f"127.0.0.1:{c}": 1,
        f"127.0.0.1:{shared}": 2,
        f"127.0.0.2:{shared}": 2,
        f"127.0.0.3:{shared}": 50,
        f"[::1]:{a}": 7,
        f"unix:{directory}/one.sock": 3,
        f"unix:{directory}/two.sock": 1,
    }
    return [Facts(address, weight, index) for index, (address, weight) in enumerate(weights.items())]


def keys() -> list[str]:
    """Of every length and kind that an argument may have, none of which nginx unescapes. Not the empty one, which neither hashes."""
    random = Random(20)
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%+/:@!$'()*,"
    drawn = ["".join(random.choices(alphabet, k=random.randrange(1, 60))) for _ in range(KEYS // 2)]
    return [*map(str, range(KEYS - len(drawn))), *drawn]


# Two light ones are down: after 20 points of servers that are, nginx gives up hashing and takes turns; lbd does not.
@pytest.mark.parametrize("down", [(), (1, 6)], ids=["all up", "two down"])
def test_the_same_endpoint_as_nginx_for_every_key(tmp_path: Path, down: tuple[int, ...]) -> None:
    port, *ports = free_ports(5)
    members = members_on(tmp_path, ports)
    config = CONFIG.format(
        directory=tmp_path,
        port=port,
        members=" ".join(f"server {m.address} weight={m.weight}{' down' * (m.index in down)};" for m in members),
        origins="\n".join(f'server {{ listen {m.address}; return 200 "{m.address}"; }}' for m in members),
    )
    cluster = filled_cluster(members, Random(1), balance="consistent-hash", panic=0.0)
    for number in down:
        cluster.set_health(members[number].address, False)
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    with start_nginx(config, tmp_path, port), Downstream(port) as downstream:
        for key in keys():
            theirs[key] = downstream.ask("GET", f"/?k={key}").body.decode()
            endpoint = cluster.pick(key.encode(), ())
            assert endpoint is not None
            ours[key] = endpoint.address
    assert len(ours) > 0.99 * KEYS
    assert {key: address for key, address in ours.items() if theirs[key] != address} == {}
    assert len(set(ours.values())) == len(members) - len(down)
