"""The command ``d2m-generator``: pretrain, distill, latents, synthesize, evaluate, show, export."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sextet_common import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; by default with the arguments of the process."""
    return cli.run("d2m-generator", "d2m_generator.commands", arguments)


if __name__ == "__main__":
    sys.exit(main())
