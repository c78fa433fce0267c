"""Report on a binary decision: operating points, AUROC, calibration, intervals by patient, heat maps."""
