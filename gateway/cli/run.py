"""`gateway run`: runs the gateway until it is told to stop."""

import gc
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, settings_or_exit
from gateway.cli.terminal import output

if TYPE_CHECKING:  # imported when the command runs: other commands need none of it
    from gateway.listeners import Urls
    from gateway.settings import Settings
    from gateway.workers.file_watch import FileWatch
    from gateway.workers.worker import Plan


def run(*, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run the gateway. It also starts without its dependencies, and reports at `/readyz` what is missing.

    SIGTERM and SIGINT stop it after the requests in flight have finished; a second signal stops it at once.
    SIGHUP reloads the configuration, and so does a change of the file if `server.reload` is `watch`. SIGUSR1
    raises the level of the log to debug for ten minutes; a second one ends that.
    """
    # Imports create many objects and leave no garbage. Collecting it would take a fifth of the start-up time.
    gc.disable()
    watch = _watch(config)
    settings = settings_or_exit(config)

    from gateway.admin.health import ParserMissing, require_c_parser
    from gateway.telemetry import logs
    from gateway.workers.supervisor import StartFailed, Supervisor

    # Workers share the supervisor's present objects as long as no process writes to their memory.
    gc.freeze()
    gc.enable()
    logs.configure(settings.log.level)
    try:
        require_c_parser()
        Supervisor(_plan(settings, watch), partial(_reread, config), _announce).run()
    except (OSError, ValueError, StartFailed) as error:
        output.fail(f"the gateway cannot start: {error}", code=output.USAGE)
    except ParserMissing as error:
        output.fail(f"the gateway refuses to start: {error}", code=output.USAGE)


def _watch(config: Path) -> "FileWatch":
    """Record the contents of all files that the settings are read from, before they are read."""
    from gateway.settings.reading.environment import files_named
    from gateway.workers.file_watch import FileWatch

    return FileWatch((config, *files_named(os.environ)))


def _plan(settings: "Settings", watch: "FileWatch") -> "Plan":
    from gateway.app import serve
    from gateway.translation import workers
    from gateway.workers.file_watch import FileWatch
    from gateway.workers.worker import Plan

    server = settings.server
    return Plan(
        workers=workers(server),
        listen=server.listen.endpoint,
        admin=settings.admin.listen.endpoint,
        decision=None if settings.decision.listen is None else settings.decision.listen.endpoint,
        grpc=None if settings.decision.grpc_listen is None else settings.decision.grpc_listen.endpoint,
        log_level=settings.log.level,
        shutdown_delay=server.shutdown_delay,
        drain_timeout=server.drain_timeout,
        serve=partial(serve, settings),
        watch=watch if server.reload == "watch" else FileWatch(()),
    )


def _reread(config: Path) -> "Plan":
    from gateway.settings import ConfigurationError, load
    from gateway.workers.supervisor import PlanRefused

    watch = _watch(config)
    try:
        return _plan(load(config), watch)
    except ConfigurationError as error:
        raise PlanRefused([str(problem) for problem in error.problems]) from error


def _announce(urls: "Urls") -> None:
    # A log event like all others: stderr carries only JSON lines.
    import structlog

    log = structlog.get_logger()
    log.info("listening", listen=urls.front, admin=urls.admin, decision=urls.decision, grpc=urls.grpc)
