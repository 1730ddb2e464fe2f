"""`gateway run`: the gateway itself, until it is told to stop."""

import asyncio
import signal

from gateway.cli import output
from gateway.cli.config import DEFAULT_CONFIG, ConfigFile, settings_or_exit


def run(*, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Run the gateway. It starts without its dependencies, too, and says at `/readyz` what is missing."""
    settings = settings_or_exit(config)

    import uvloop

    from gateway.app import serve
    from gateway.proxy.server import ParserMissing

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with serve(settings) as running:
            output.err.print(
                f"gateway listens on {running.url}, admin on {running.admin_url}",
                markup=False,
                soft_wrap=True,
            )
            await stop.wait()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except OSError as error:
        output.fail(f"the gateway cannot start: {error}", code=output.USAGE)
    except ParserMissing as error:
        output.fail(f"the gateway refuses to start: {error}", code=output.USAGE)
