"""Public name of `esac.results.summaries`."""

from esac.results.summaries import *  # noqa: F403
