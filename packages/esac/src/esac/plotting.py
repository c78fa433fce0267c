"""Public name of `esac.results.plotting`."""

from esac.results.plotting import *  # noqa: F403
