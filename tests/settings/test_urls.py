"""The URLs of Postgres and Redis: values that the drivers refuse are mistakes in the configuration."""

import re
from pathlib import Path

import pytest
from asyncpg import connect_utils

from gateway.settings import ConfigurationError, load
from gateway.stores.redis.shared_tier import RedisTier
from tests.settings import mistakes

TEXT = """\
issuers: [{name: main, issuer: https://idp.example.com/, audiences: [a]}]
postgres: {dsn: %(dsn)r}
redis: {url: %(redis)r}
upstreams: {orders: {urls: [http://a]}}
routes: [{name: orders, match: {path: /**}, upstream: orders}]
"""
DSN = "postgresql://g@127.0.0.1/g"
REDIS = "redis://127.0.0.1"


def write(folder: Path, *, dsn: str = DSN, redis: str = REDIS) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(TEXT % {"dsn": dsn, "redis": redis})
    return file


def mistake(file: Path) -> str:
    (problem,) = mistakes.problems(file)
    assert problem.line is not None
    assert problem.hint
    return f"{problem.line}: {problem}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:hunter2@[bad/0", "bracket"),
        ("redis://:hunter2@[bad]/0", "bracket"),
        ("redis://h:99999/0", "port"),
        ("redis://h:0/0", "port"),
        ("redis://h:port/0", "port"),
        ("redis://h:6379:1/0", "has an invalid host"),
        ("redis://h/abc", "database that is not a number"),
        ("redis://h/0?hunter2=bar", "parameter that is not supported"),
        ("redis://h/0?protocol=3", "parameter that is not supported"),
        ("redis://h/0?ssl_cert_reqs=none", "parameter that is not supported"),
        ("rediss://h/0?ssl_cert_reqs=some", "ssl_cert_reqs that does not exist"),
        ("redis://h/0?db=x", "parameter that is not a number"),
        ("redis://:hunter2/x@h/0", "ends the host too early → percent-encode"),
        ("redis://:hunter2#x@h/0", "ends the host too early → percent-encode"),
        ("redis://:hunter2 x@h/0", "spaces"),
        ("unix://run/redis.sock", "path of a socket"),
        ("redis+tardis://h", "must be a URL that starts with redis://"),
        ("redis+sentinel://h", "no service"),
        ("redis+sentinel://h/main/x", "a database that is not a number"),
        ("redis+sentinel://h,,i/main", "a comma without a host"),
        ("redis+sentinel://:hunter2@h:port/main", "port"),
        ("redis+sentinel://:hunter2/x@h/main", "ends the host too early"),
        ("redis://h/0?sentinel_password=hunter2", "parameter that is not supported"),
    ],
)
def test_redis_urls_that_cannot_be_used(tmp_path: Path, url: str, message: str) -> None:
    told = mistake(write(tmp_path, redis=url))
    assert re.match(rf"3: .*: redis\.url: .*{message}", told), told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://",
        "redis://:6379/",
        "redis://:p%40%2F@h:6379/15",
        "redis://user:p@ss@h/0",
        "redis://[::1]:6379/0?client_name=gateway&health_check_interval=30",
        "rediss://h/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem&ssl_check_hostname=true&ssl_password=x"
        "&ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_ca_path=/ca",
        "unix:///run/redis.sock?db=3",
        "unix://:password@/run/redis.sock",
        "redis+sentinel://user:p@ss@h:26379,i,[::1]:7/main",
        "rediss+sentinel://h/main/0?sentinel_username=s&sentinel_password=p&ssl_cert_reqs=none",
        "redis+sentinel://h/main?db=3",
        "redis+cluster://:password@h:6379,i/",
        "rediss+cluster://h?ssl_ca_certs=/ca.pem",
    ],
)
async def test_redis_urls_that_can_be_used(tmp_path: Path, url: str) -> None:
    settings = load(write(tmp_path, redis=url), {"GATEWAY_REDIS__PREFIX": "{gateway}:"})
    await RedisTier(settings.redis.url.get_secret_value(), prefix=settings.redis.prefix).close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+cluster://h/0", "has a database"),
        ("redis+cluster://h?db=0", "parameter that is not supported"),
        ("redis+cluster://:7000", "a port or a comma without a host"),
    ],
)
def test_cluster_urls_that_cannot_be_used(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"redis\.url: .*{message}"):
        load(write(tmp_path, redis=url), {"GATEWAY_REDIS__PREFIX": "{gateway}:"})


def test_a_cluster_needs_a_prefix_that_keeps_keys_together(tmp_path: Path) -> None:
    file = write(tmp_path, redis="redis+cluster://h")
    with pytest.raises(ConfigurationError, match=r"redis\.prefix: has no hash tag.*"):
        load(file, {})
    load(file, {"GATEWAY_REDIS__PREFIX": "{gateway}:"})


def test_a_redis_url_with_an_unknown_parameter_is_refused_before_the_first_request() -> None:
    with pytest.raises(ValueError, match="the Redis URL cannot be read"):
        RedisTier("redis://h/0?foo=bar")


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://u:hunter2@127.0.0.1:port/x", "port"),
        ("postgresql://u:hunter2@127.0.0.1:70000/x", "port"),
        ("postgresql://u:hunter2@[bad/x", "bracket"),
        ("postgresql://u:hunter2@[bad]/x", "bracket"),
        ("postgresql://u:hunter2/x@h/x", "ends the host too early → percent-encode"),
        ("postgresql://u:hunter2#x@h/x", "ends the host too early → percent-encode"),
        ("postgresql://u:hunter2?x@h/x", "ends the host too early → percent-encode"),
        ("postgresql://u:hunter2@x@h/x", "more than one @"),
        ("postgresql://u@h1,,h2/x", "without a host"),
        ("postgresql://u@:5432/x", "without a host"),
        ("postgresql://u@h/x?sslmode=foo", "sslmode that does not exist → write one of disable"),
        ("postgresql://u@h/x?target_session_attrs=foo", "target_session_attrs that does not exist"),
        ("postgresql://u@h/x?hunter2", "query that cannot be read"),
        ("postgresql:///x?host=h&port=y", "port"),
    ],
)
def test_dsns_that_cannot_be_used(tmp_path: Path, dsn: str, message: str) -> None:
    told = mistake(write(tmp_path, dsn=dsn))
    assert re.match(rf"2: .*: postgres\.dsn: .*{message}", told), told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("dsn", "addresses"),
    [
        ("postgres://u@h/x", [("h", 5432)]),
        (
            "postgresql://u:p%40%2F%23@h1:5432,h2:5433/x?target_session_attrs=primary",
            [("h1", 5432), ("h2", 5433)],
        ),
        ("postgresql://u@[::1]:5433/x?sslmode=verify-full&application_name=a", [("::1", 5433)]),
        ("postgresql:///x?host=/run/postgresql&port=5433&user=u", ["/run/postgresql/.s.PGSQL.5433"]),
        ("postgresql://u@%2Frun%2Fpg/x", ["/run/pg/.s.PGSQL.5432"]),
    ],
)
def test_dsns_that_can_be_used(tmp_path: Path, dsn: str, addresses: list[object]) -> None:
    settings = load(write(tmp_path, dsn=dsn), {})
    assert settings.postgres.dsn.get_secret_value() == dsn
    # What the driver makes of it, but for files of certificates, which are not there.
    hosts = dsn.replace("sslmode=verify-full&", "")
    read, _ = connect_utils._parse_connect_dsn_and_args(  # type: ignore[attr-defined]  # private
        dsn=hosts, host=None, port=None, user=None, password=None, passfile=None, database=None, ssl=None,
        service=None, servicefile=None, direct_tls=None, server_settings=None, target_session_attrs=None,
        krbsrvname=None, gsslib=None,
    )  # fmt: skip
    assert list(read) == addresses
