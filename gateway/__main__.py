"""`python -m gateway`, and the `gateway` command."""

import sys
import traceback

from gateway.cli.main import app
from gateway.cli.output import BUG


def main() -> None:
    """Run the command line; a fault of ours ends with a plain traceback and a code of its own."""
    try:
        app(prog_name="gateway")
    except Exception:  # noqa: BLE001 -- the outermost place: 1 would say that the answer is no
        traceback.print_exc()
        sys.exit(BUG)


if __name__ == "__main__":
    main()
