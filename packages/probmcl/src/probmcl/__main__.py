"""The command `probmcl`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sextet_common import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return cli.run("probmcl", "probmcl.commands", arguments)


if __name__ == "__main__":
    sys.exit(main())
