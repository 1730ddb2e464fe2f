"""Looks for known vulnerabilities of the pinned packages, by pip-audit and the OSV database (osv.dev).

Where that database cannot be reached within seconds, it says so and ends well: `make lint` must work without
a network. Exit code 1: a package has a vulnerability that is not listed here with a reason.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any, Final

DATABASE: Final = "https://api.osv.dev"
PROBE: Final = "--probe"
REACH: Final = 3.0
"""Seconds until the database counts as out of reach."""
PATIENCE: Final = 120.0
"""Seconds for all packages."""
ACCEPTED: Final = {
    # ecdsa comes with python-jose, as a fallback for systems without OpenSSL. The gateway has OpenSSL, and
    # signs nothing with it: docs/dependencies.md.
    "CVE-2024-23342": "timing of ecdsa's arithmetic, which is not used",
}


def main(requirements: str) -> int:
    """Return the exit code. `--probe` in place of the file: only tell whether the database answers."""
    if not reachable():
        skipped(f"{DATABASE} cannot be reached")
        return 1 if requirements == PROBE else 0
    if requirements == PROBE:
        return 0
    command = [sys.executable, "-m", "pip_audit", "--requirement", requirements, "--no-deps", "--disable-pip"]
    command += [
        "--vulnerability-service",
        "osv",
        "--timeout",
        "10",
        "--progress-spinner",
        "off",
        "--format",
        "json",
    ]
    for vulnerability in ACCEPTED:
        command += ["--ignore-vuln", vulnerability]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)  # noqa: S603 -- a constant command
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return skipped(f"no answer about all packages within {PATIENCE:g} s")
    except (ValueError, KeyError):
        return skipped((done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1])
    found = [(package, each) for package in packages for each in package.get("vulns", ())]
    for package, each in found:
        fixed = ", ".join(each.get("fix_versions", ())) or "none yet"
        print(f"{package['name']} {package['version']}: {each['id']}; fixed in {fixed}")  # noqa: T201 -- its output
    if not found:
        print(f"audit: no known vulnerability in {len(packages)} packages")  # noqa: T201 -- its output
    return 1 if found else 0


def reachable() -> bool:
    """Tell whether the database answers, whatever it says."""
    try:
        urllib.request.urlopen(DATABASE, timeout=REACH).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def skipped(why: str) -> int:
    """Say why nothing was looked up."""
    print(f"audit: skipped: {why}", file=sys.stderr)  # noqa: T201 -- its output
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
