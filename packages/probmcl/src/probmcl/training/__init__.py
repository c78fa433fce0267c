"""Training in one or two stages: settings, the network, the stages and the calibration."""
