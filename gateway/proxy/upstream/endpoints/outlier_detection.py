"""Outlier detection: whether an endpoint gets requests, by its last requests and health checks."""

from gateway.proxy.upstream.options import Ejection, HealthCheck


class OutlierDetection:
    """The failures, ejections and health of one endpoint. Times are seconds of one clock.

    After `failures` failures in a row it is ejected, each time for twice as long as before. After the
    ejection it is on trial: it gets one request at a time until one succeeds.
    """

    def __init__(self, ejection: Ejection, health_check: HealthCheck | None) -> None:
        self._ejection = ejection
        self._health_check = health_check
        self.failures = 0
        """Failures in a row up to now."""
        self._ejections = 0
        self._until = 0.0
        self._unhealthy = False
        self._contrary_checks = 0
        self.failed_at = 0.0
        """The time of the last failure. If all are ejected, the one that failed longest ago is used."""

    def may_serve(self, now: float, outstanding: int) -> bool:
        """Return whether it may get a request in addition to the `outstanding` ones."""
        if self._unhealthy:
            return False
        return not self._ejections or (now >= self._until and not outstanding)

    def ejected(self, now: float) -> bool:
        """Return whether it gets no requests now."""
        return self._unhealthy or (self._ejections > 0 and now < self._until)

    def succeeded(self) -> bool:
        """Count an answer; return whether it ended a trial."""
        self.failures = 0
        ended, self._ejections = self._ejections > 0, 0
        return ended

    def failed(self, now: float) -> float | None:
        """Count a failure; return the seconds of the ejection, if this failure causes one."""
        self.failures += 1
        self.failed_at = now
        rules = self._ejection
        if not rules.failures or self.failures < rules.failures or (self._ejections and now < self._until):
            return None
        # After some 60 doublings, a float would lose the base anyway.
        seconds = min(rules.base_time * 2.0 ** min(self._ejections, 60), rules.max_time)
        self._ejections += 1
        self._until = now + seconds
        return seconds

    def checked(self, now: float, *, healthy: bool) -> bool:
        """Count a health check; return whether the endpoint has become healthy or unhealthy."""
        rules = self._health_check
        if not healthy:
            self.failed_at = now
        if rules is None or healthy is not self._unhealthy:
            self._contrary_checks = 0
            return False
        self._contrary_checks += 1
        if self._contrary_checks < (rules.healthy_after if healthy else rules.unhealthy_after):
            return False
        self._contrary_checks = 0
        self._unhealthy = not healthy
        return True
