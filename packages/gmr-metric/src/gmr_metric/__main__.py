"""The program `gmr-metric`; its commands are in `gmr_metric.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sextet_common import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return cli.run("gmr-metric", "gmr_metric.commands", arguments)


if __name__ == "__main__":
    sys.exit(main())
