"""Public name of `esac.results.statistics`."""

from esac.results.statistics import *  # noqa: F403
