"""The availability of a dependency, whose outages are logged."""

from collections.abc import Callable

from gateway.stores.availability import Availability
from gateway.telemetry import logs


def availability(dependency: str) -> Availability:
    return Availability(report(dependency))


def report(dependency: str) -> Callable[[str | None], None]:
    """Return a function that logs each outage: one line when it begins and one when it ends."""

    def log(detail: str | None) -> None:
        if detail is None:
            logs.dependency_up(dependency)
        else:
            logs.dependency_down(dependency, detail)

    return log
