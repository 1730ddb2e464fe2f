"""A preflight takes the path of the request that it announces, with all rules about that path."""

import pytest

from gateway.core.headers import HeaderPolicy, HeaderRules
from gateway.core.model import Auth, Cors, Requirement, Route
from gateway.core.reasons import REQUEST_MALFORMED, Denial
from gateway.core.routes import RouteTable
from gateway.pipeline import Pipeline
from gateway.verifier import TokenVerifier
from tests.pipelines import MAIN, PRO, World, request

CORS = Cors(frozenset({"https://app.example"}))
ORIGIN = (b"Origin", b"https://app.example")
ROUTES = RouteTable(
    [
        Route("packages", "/packages/**", "npm", allow=frozenset({"encoded_slash"}), cors=CORS),
        Route("write", "/orders/**", "orders", methods=frozenset({"PUT"}), cors=CORS),
        Route("read", "/orders/**", "orders", methods=frozenset({"GET"})),
        Route("pro", "/pro/**", "orders", cors=CORS, require=Requirement(condition=PRO)),
        Route("options", "/orders/**", "orders", methods=frozenset({"OPTIONS"}), auth=Auth.NONE, cors=CORS),
        Route("trace", "/trace/**", "orders", methods=frozenset({"TRACE"}), auth=Auth.NONE),
    ],
    forwards=True,
)


@pytest.fixture
def pipeline() -> Pipeline:
    world = World()
    verifier = TokenVerifier([MAIN], world.keys, clock=lambda: world.now)
    return Pipeline(ROUTES, verifier, world.directory, HeaderPolicy(HeaderRules({})))


async def test_the_route_is_that_of_the_announced_method(pipeline: Pipeline) -> None:
    for method, route in (("PUT", "write"), ("GET", "options"), ("DELETE", "options")):
        asked = (ORIGIN, (b"Access-Control-Request-Method", method.encode()))
        forwarding = pipeline.read(request("/orders/1", method="OPTIONS", headers=asked))
        assert (forwarding.route.name, forwarding.preflight is not None) == (route, method == "PUT")


async def test_a_method_that_no_route_takes_is_not_listed() -> None:
    """So that the browser names it, and not a status. Fronts forward preflights, so this is not for them."""
    routes = [
        Route("read", "/read/**", "orders", methods=frozenset({"GET", "POST"}), cors=CORS),
        Route("any", "/any/**", "orders", cors=CORS),
        Route(
            "spelled",
            "/spelled/**",
            "orders",
            methods=frozenset({"GET"}),
            allow=frozenset({"encoded_slash"}),
            cors=CORS,
        ),
    ]
    world = World()
    verifier = TokenVerifier([MAIN], world.keys, clock=lambda: world.now)
    here, fronts = (
        Pipeline(
            RouteTable(routes, forwards=forwards), verifier, world.directory, HeaderPolicy(HeaderRules({}))
        )
        for forwards in (True, False)
    )
    for path, method, told in (
        ("/read/1", b"patch", b"GET, POST"),
        ("/read/1", b"DELETE", b"GET, POST"),
        ("/any/1", b"patch", b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
    ):
        asked = (ORIGIN, (b"Access-Control-Request-Method", method))
        preflight = request(path, method="OPTIONS", headers=asked)
        answer = here.read(preflight).preflight
        assert answer is not None
        assert b"Access-Control-Allow-Methods: %b\r\n" % told in answer
        with pytest.raises(Denial):
            fronts.read(preflight)
    # Whether the route would take this spelling is not known.
    asked = (ORIGIN, (b"Access-Control-Request-Method", b"DELETE"))
    for path in ("/spelled/a%2Fb", "/nowhere"):
        with pytest.raises(Denial):
            here.read(request(path, method="OPTIONS", headers=asked))


async def test_a_condition_is_not_asked_about_a_preflight(pipeline: Pipeline) -> None:
    """It carries no token. The request that it announces must meet the condition."""
    asked = (ORIGIN, (b"Access-Control-Request-Method", b"GET"))
    admission = await pipeline.admit(request("/pro", method="OPTIONS", headers=asked))
    assert admission.forwarding.preflight is not None


async def test_a_spelling_that_the_route_does_not_allow_is_refused(pipeline: Pipeline) -> None:
    asked = (ORIGIN, (b"Access-Control-Request-Method", b"PUT"))
    allowed = pipeline.read(request("/packages/@a%2Fb", method="OPTIONS", headers=asked))
    assert allowed.preflight is not None
    with pytest.raises(Denial) as caught:
        pipeline.read(request("/orders/a%2Fb", method="OPTIONS", headers=asked))
    assert caught.value.reason is REQUEST_MALFORMED


async def test_a_request_that_must_go_no_further_is_answered(pipeline: Pipeline) -> None:
    last = (b"Max-Forwards", b"0")
    for path, allow in (
        ("/packages/a", b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        ("/orders", b"OPTIONS"),
    ):
        forwarding = pipeline.read(request(path, method="OPTIONS", headers=(last,)))
        assert forwarding.preflight == b"Allow: %b\r\n" % allow
    with pytest.raises(Denial) as caught:
        pipeline.read(request("/trace", method="TRACE", headers=(last,)))
    denial = caught.value
    assert (denial.reason.code, denial.allow) == ("method_not_allowed", frozenset({"TRACE"}))
    assert denial.route is not None
