"""`gateway run`: the gateway itself, until it is told to stop."""

import gc
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import output
from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, settings_or_exit

if TYPE_CHECKING:  # imported when the command runs: other commands need none of it
    from gateway.settings import Settings
    from gateway.workers.worker import Plan


def run(*, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run the gateway. It starts without its dependencies, too, and says at `/readyz` what is missing.

    SIGTERM and SIGINT end it once what is in flight is done, a second one at once; SIGHUP reads the
    configuration again.
    """
    # Imports create much and leave no garbage: collecting costs a fifth of the time to start.
    gc.disable()
    settings = settings_or_exit(config)

    from gateway.admin.health import ParserMissing, require_c_parser
    from gateway.telemetry import logs
    from gateway.workers.supervisor import StartFailed, Supervisor

    # The workers share what is there now with the supervisor, as long as no process touches it.
    gc.freeze()
    gc.enable()
    logs.configure(settings.log.level)
    try:
        require_c_parser()
        Supervisor(_plan(settings), partial(_reread, config), _announce).run()
    except (OSError, ValueError, StartFailed) as error:
        output.fail(f"the gateway cannot start: {error}", code=output.USAGE)
    except ParserMissing as error:
        output.fail(f"the gateway refuses to start: {error}", code=output.USAGE)


def _plan(settings: "Settings") -> "Plan":
    from gateway.app import serve
    from gateway.workers.worker import Plan

    server = settings.server
    return Plan(
        workers=_cores() if server.workers == "auto" else server.workers,
        listen=server.listen.endpoint,
        admin=settings.admin.listen.endpoint,
        shutdown_delay=server.shutdown_delay,
        drain_timeout=server.drain_timeout,
        serve=partial(serve, settings),
    )


def _reread(config: Path) -> "Plan":
    from gateway.settings import ConfigurationError, load
    from gateway.workers.supervisor import PlanRefused

    try:
        return _plan(load(config))
    except ConfigurationError as error:
        raise PlanRefused([str(problem) for problem in error.problems]) from error


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _announce(url: str, admin_url: str) -> None:
    # An event like all others: stderr has JSON lines alone.
    import structlog

    structlog.get_logger().info("listening", listen=url, admin=admin_url)
