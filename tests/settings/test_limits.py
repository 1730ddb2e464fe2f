"""The settings of `limits`: what may be written, and what is told of a mistake."""

from pathlib import Path
from typing import Any

import pytest

from gateway.builders.limiting import claims_read, limit_of
from gateway.limits.rules import Limit
from gateway.settings import ConfigurationError, load
from gateway.settings.advice import advice
from gateway.settings.reading.loading import load_with_source
from tests.settings import mistakes

BASE = """\
issuers: [{name: main, issuer: https://idp.example.com/, audiences: [a]}]
postgres: {dsn: postgresql://g@127.0.0.1/g}
redis: {url: redis://127.0.0.1}
upstreams: {orders: {urls: ["http://127.0.0.1:9000"]}}
routes: [{name: orders, match: {path: /api/**}, upstream: orders}]
limits:
"""


def written(folder: Path, *limits: str) -> Path:
    file = folder / "gateway.yaml"
    file.write_text(BASE + "".join(f"  - {{{limit}}}\n" for limit in limits))
    return file


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("per: user, rate: 600/1m", {"kind": "rate", "amount": 600, "period": 60.0, "burst": 600}),
        ("per: user, rate: 10/s, burst: 3", {"kind": "rate", "amount": 10, "period": 1.0, "burst": 3}),
        ("per: claims.org.id, rate: 5/24h", {"kind": "rate", "amount": 5, "period": 86400.0, "burst": 5}),
        (
            "per: tenant, quota: 10000/month, time_zone: Europe/Berlin",
            {"kind": "quota", "amount": 10000, "unit": "month", "time_zone": "Europe/Berlin"},
        ),
        ("per: client, concurrency: 5, slack: 0", {"kind": "concurrency", "amount": 5, "slack": 0.0}),
        (
            "per: route, rate: 5/1s, routes: [orders], counts: anonymous, mode: shadow",
            {
                "kind": "rate", "amount": 5, "period": 1.0, "burst": 5, "routes": frozenset({"orders"}),
                "counts": "anonymous", "shadow": True,
            },
        ),
        ("per: kid, rate: 3/1m, counts: failed", {"kind": "rate", "amount": 3, "period": 60.0, "burst": 3}),
    ],
)  # fmt: skip
def test_limits_as_they_are_meant(tmp_path: Path, text: str, limit: dict[str, Any]) -> None:
    settings = load(written(tmp_path, f"name: a, {text}"), {})
    per = text.partition(",")[0].removeprefix("per: ")
    expected = {"counts": "failed" if per == "kid" else "all", **limit}
    assert limit_of(settings.limits[0]) == Limit("a", per, **expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("per: user", "limits[0]: has no limit, and must have one kind"),
        ("per: user, rate: 1/1s, quota: 1/day", "limits[0]: has rate and quota, and must have one kind"),
        ("per: user, rate: '600'", "limits[0].rate: must be a number and a duration: write 600/1m"),
        ("per: user, rate: 600/minute", "limits[0].rate: must be a duration with its unit"),
        ("per: user, rate: 600/0s", "limits[0].rate: must have a duration from 1ms to 8784h"),
        ("per: user, rate: 600/0.9ms", "limits[0].rate: must have a duration from 1ms to 8784h"),
        ("per: user, rate: 1/8785h", "limits[0].rate: must have a duration from 1ms to 8784h"),
        ("per: user, rate: 1/1s, burst: 0", "limits[0].burst: must be greater than or equal to 1"),
        (
            "per: user, rate: 1/1s, burst: 1000000000",
            "limits[0].burst: must be less than or equal to 999999999",
        ),
        (
            "per: user, concurrency: 1000000000",
            "limits[0].concurrency: must be less than or equal to 999999999",
        ),
        ("per: user, rate: 0/1s", "limits[0].rate: must be a number and a duration"),
        ("per: user, quota: 5/week", "limits[0].quota: must be a number for each day or month"),
        ("per: person, rate: 1/1s", "limits[0].per: must say whose requests are counted together"),
        ("per: claims., rate: 1/1s", "limits[0].per: must say whose requests are counted together"),
        ("per: user, concurrency: 1, burst: 3", "limits[0].burst: belongs to a rate"),
        ("per: user, rate: 1/1s, time_zone: UTC", "limits[0].time_zone: belongs to a quota"),
        ("per: user, quota: 1/day, time_zone: Mars", "limits[0].time_zone: must be a time zone"),
        ("per: user, rate: 1/1s, routes: [order]", "limits[0].routes[0]: there is no route 'order'"),
        ("per: user, rate: 1/1s, counts: anonymous", "limits[0].per: is of a token"),
        ("per: user, rate: 1/1s, counts: failed", "limits[0].per: is of a valid token"),
        (
            "per: client, concurrency: 1, counts: failed",
            "limits[0].counts: goes with a rate or a quota alone",
        ),
        ("per: kid, rate: 1/1s", "limits[0].per: is for failed authentications"),
        ("per: kid, rate: 1/1s, counts: failed, when: user.id == 'a'", "limits[0].when: reads a valid token"),
        ("per: user, rate: 1/1s, slack: 2", "limits[0].slack: "),
    ],
)
def test_mistakes_are_reported_at_their_line(tmp_path: Path, text: str, message: str) -> None:
    (told,) = mistakes.told(written(tmp_path, f"name: a, {text}"))
    assert told.replace(" → ", ": ").startswith(f":7: {message}")


def test_names_are_unique(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'a' is also the name of limits"):
        load(written(tmp_path, "name: a, per: user, rate: 1/1s", "name: a, per: user, rate: 2/1s"), {})


def test_the_claims_of_limits_are_read_from_tokens(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "name: a, per: claims.org.id, rate: 1/1s"), {})
    assert claims_read(settings) == {"org", "org.id"}


def test_a_concurrency_is_not_for_questions_of_other_proxies(tmp_path: Path) -> None:
    file = written(tmp_path, "name: a, per: user, concurrency: 3")
    file.write_text(file.read_text() + "decision: {listen: 127.0.0.1:8081, trusted_proxies: [10.0.0.0/8]}\n")
    warned = [str(each) for each in advice(*load_with_source(file, {})) if "concurrency" in str(each)]
    assert len(warned) == 1
    assert ":7: limits[0].concurrency: does not count what other proxies ask" in warned[0]
