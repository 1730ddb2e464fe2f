"""The settings of the decision listener, and of routes that only it serves."""

from pathlib import Path

import pytest

from gateway.settings import listening, load
from gateway.settings.advice import advice
from gateway.settings.reading.loading import load_with_source
from tests.settings import mistakes

BASE = """\
decision: {listen: 127.0.0.1:8081, trusted_proxies: [10.0.0.0/8]}
server: {listen: 127.0.0.1:8080}
admin: {listen: 127.0.0.1:9901}
issuers: [{name: main, issuer: https://idp.example.com/, audiences: [a]}]
postgres: {dsn: postgresql://g@127.0.0.1/g}
redis: {url: redis://127.0.0.1}
upstreams: {}
routes:
  - {name: orders, match: {path: /api/**}, upstream: null}
"""


def told(folder: Path, text: str) -> list[str]:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return mistakes.told(file)


def test_a_gateway_for_decisions_alone_needs_no_upstream(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(BASE)
    settings = load(file, {})
    assert settings.decision.listen is not None
    assert settings.decision.listen.port == 8081
    assert settings.routes[0].upstream is None


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_everyone_cannot_be_trusted_to_ask(tmp_path: Path, network: str) -> None:
    text = BASE.replace("[10.0.0.0/8]", f'["10.0.0.0/8", "{network}"]')
    assert told(tmp_path, text) == [
        ":1: decision.trusted_proxies[1]: would let any client ask, and say what it likes about itself"
        " → write the networks of your proxies, such as 10.0.0.0/8"
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (", trusted_proxies: [10.0.0.0/8]", "", ":1: decision: has no trusted_proxies"),
        ("[10.0.0.0/8]", "[10.0.0.1/8]", ":1: decision.trusted_proxies[0]: must be a network"),
        (
            "[10.0.0.0/8]",
            '["::ffff:10.0.0.0/104"]',
            ":1: decision.trusted_proxies[0]: has addresses of IPv4, written as IPv6: no peer would be in it"
            " → write 10.0.0.0/8",
        ),
        (
            "[10.0.0.0/8]",
            "[0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/2]",
            ":1: decision.trusted_proxies: are 0.0.0.0/0 together",
        ),
        ("[10.0.0.0/8]", '["8000::/1", "::/1"]', ":1: decision.trusted_proxies: are ::/0 together"),
        (
            "listen: 127.0.0.1:8081",
            "listen: 0.0.0.0:8080",
            ":1: decision.listen: is also the address of server.listen",
        ),
        (
            "listen: 127.0.0.1:8081",
            "listen: '[::]:9901'",
            ":1: decision.listen: is also the address of admin.listen",
        ),
        (
            "127.0.0.1:8081, trusted_proxies: [10.0.0.0/8]}\nserver: {listen: 127.0.0.1:8080}",
            "127.0.0.1:8080, trusted_proxies: [10.0.0.0/8]}",
            ":1: decision.listen: is also the address of server.listen",
        ),
        ("listen: 127.0.0.1:8081", "listen: 8081", ":1: decision.listen: must be host:port"),
        (
            "listen: 127.0.0.1:8081",
            "listen: 127.0.0.1:9901",
            ":1: decision.listen: is also the address of admin.listen",
        ),
        (
            "listen: 127.0.0.1:8081",
            "listen: 127.0.0.1:8080",
            ":1: decision.listen: is also the address of server.listen",
        ),
        (
            "decision: {listen: 127.0.0.1:8081, trusted_proxies: [10.0.0.0/8]}",
            "decision: {}",
            ":9: routes[0].upstream: is null: the route is for other proxies, but decision.listen is not set",
        ),
        (", upstream: null", "", ":9: routes[0].upstream: is required"),
        ("upstream: null", "upstream: orders", ":9: routes[0].upstream: there is no upstream 'orders'"),
    ],
)
def test_a_mistake_is_reported_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in BASE
    (found,) = told(tmp_path, BASE.replace(old, new))
    assert found.startswith(expected)


def test_grpc_without_its_extra_is_a_mistake_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = BASE.replace("decision: {", "decision: {grpc_listen: 127.0.0.1:8082, ")
    (tmp_path / "gateway.yaml").write_text(text)
    assert load(tmp_path / "gateway.yaml", {}).decision.grpc_listen == "127.0.0.1:8082"
    monkeypatch.setattr(listening, "find_spec", lambda name: None if name == "google.protobuf" else name)
    assert told(tmp_path, text) == [
        ":1: decision.grpc_listen: needs protobuf, not installed here"
        " → install the extra: pip install 'gateway[grpc]'"
    ]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("unix:/run/grpc.sock", "must be host:port: workers cannot share the Unix socket of a gRPC server"),
        ("127.0.0.1:8081", "is also the address of decision.listen"),
        ("127.0.0.1:8080", "is also the address of server.listen"),
    ],
)
def test_grpc_needs_an_address_of_its_own(tmp_path: Path, address: str, message: str) -> None:
    text = BASE.replace("decision: {", f'decision: {{grpc_listen: "{address}", ')
    (found,) = told(tmp_path, text)
    assert found.startswith(f":1: decision.grpc_listen: {message}")


@pytest.mark.parametrize("listen", ["127.0.0.2:8080", "'[::1]:8080'", "127.0.0.1:0", "unix:/run/d.sock"])
def test_addresses_beside_each_other_are_no_mistake(tmp_path: Path, listen: str) -> None:
    (tmp_path / "gateway.yaml").write_text(BASE.replace("listen: 127.0.0.1:8081", f"listen: {listen}"))
    load(tmp_path / "gateway.yaml", {})


def test_proxies_that_nothing_listens_for_are_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    text = BASE.replace("listen: 127.0.0.1:8081, ", "").replace("upstream: null", "upstream: orders")
    file.write_text(text.replace("upstreams: {}", 'upstreams: {orders: {urls: ["http://127.0.0.1:9000"]}}'))
    (warning,) = advice(*load_with_source(file, {}))
    assert (warning.field, warning.message) == (
        "decision.trusted_proxies",
        "lets proxies ask, but nothing listens for them",
    )


def test_a_unix_socket_needs_no_networks(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(BASE.replace("127.0.0.1:8081, trusted_proxies: [10.0.0.0/8]", "unix:/run/decision.sock"))
    assert load(file, {}).decision.listen == "unix:/run/decision.sock"
