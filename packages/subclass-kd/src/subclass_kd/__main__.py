"""The command `subclass-kd`: see `subclass_kd.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sextet_common import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for bad input, 130 if interrupted."""
    return cli.run("subclass-kd", "subclass_kd.commands", arguments)


if __name__ == "__main__":
    sys.exit(main())
