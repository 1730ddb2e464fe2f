"""`python -m gateway`, and the `gateway` command."""

import sys
import traceback

from gateway.cli.main import app
from gateway.cli.terminal.output import BUG


def main() -> None:
    """Run the command line. A bug prints a plain traceback and exits with `BUG`."""
    try:
        app(prog_name="gateway")
    except Exception:  # noqa: BLE001 -- the outermost place; Python's own exit code, 1, means that the answer is no
        traceback.print_exc()
        sys.exit(BUG)


if __name__ == "__main__":
    main()
