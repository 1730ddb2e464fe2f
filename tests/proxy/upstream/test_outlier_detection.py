"""When an endpoint gets requests."""

from gateway.proxy.upstream.endpoints.outlier_detection import OutlierDetection
from gateway.proxy.upstream.options import Ejection, HealthCheck

RULES = Ejection(failures=3, base_time=1.0, max_time=5.0)


def outlier_detection(ejection: Ejection = RULES) -> OutlierDetection:
    return OutlierDetection(ejection, HealthCheck("/", healthy_after=2, unhealthy_after=3))


def fail(detection: OutlierDetection, now: float, times: int = 3) -> list[float | None]:
    return [detection.failed(now) for _ in range(times)]


def test_failures_in_a_row_eject_an_endpoint() -> None:
    detection = outlier_detection()
    assert fail(detection, 10.0) == [None, None, 1.0]
    assert detection.ejected(10.9)
    assert not detection.may_serve(10.9, 0)
    assert not detection.ejected(11.0)
    assert detection.may_serve(11.0, 0)


def test_a_success_restarts_the_count_of_failures() -> None:
    detection = outlier_detection()
    fail(detection, 10.0, 2)
    assert not detection.succeeded()
    assert fail(detection, 10.0, 2) == [None, None]
    assert detection.may_serve(10.0, 5)


def test_on_trial_it_gets_one_request_at_a_time() -> None:
    detection = outlier_detection()
    fail(detection, 10.0)
    assert detection.may_serve(11.0, 0)
    assert not detection.may_serve(11.0, 1)
    assert detection.succeeded()
    assert detection.may_serve(11.0, 9)


def test_each_ejection_is_twice_as_long_up_to_a_limit() -> None:
    detection = outlier_detection()
    now, lasting = 10.0, []
    fail(detection, now, 2)
    for _ in range(5):
        seconds = detection.failed(now)
        assert seconds is not None
        lasting.append(seconds)
        now += seconds
    assert lasting == [1.0, 2.0, 4.0, 5.0, 5.0]
    detection.succeeded()
    assert fail(detection, now) == [None, None, 1.0]


def test_a_thousand_ejections_cause_no_overflow() -> None:
    detection = outlier_detection(Ejection(1, 1.0, 60.0))
    now = 0.0
    for _ in range(2000):
        assert detection.failed(now)
        now += 60.0


def test_failures_of_earlier_requests_do_not_prolong_an_ejection() -> None:
    detection = outlier_detection()
    fail(detection, 10.0)
    assert fail(detection, 10.5, 10) == [None] * 10
    assert not detection.ejected(11.0)
    assert detection.failed_at == 10.5


def test_zero_failures_never_eject() -> None:
    detection = outlier_detection(Ejection(failures=0))
    assert fail(detection, 10.0, 100) == [None] * 100
    assert detection.may_serve(10.0, 50)


def test_checks_in_a_row_decide_on_health() -> None:
    detection = outlier_detection()
    checks = [False, False, True, False, False, False, True, False, True, True]
    changes = [detection.checked(1.0, healthy=healthy) for healthy in checks]
    assert [number for number, changed in enumerate(changes) if changed] == [5, 9]
    assert detection.may_serve(1.0, 0)


def test_an_unhealthy_endpoint_gets_no_requests() -> None:
    detection = outlier_detection()
    for _ in range(3):
        detection.checked(1.0, healthy=False)
    assert detection.ejected(100.0)
    assert not detection.may_serve(100.0, 0)
    # An answer to a request does not count as a health check.
    detection.succeeded()
    assert detection.ejected(100.0)
