"""The command `esac`; see `esac.commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sextet_common import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return cli.run("esac", "esac.commands", arguments)


if __name__ == "__main__":
    sys.exit(main())
