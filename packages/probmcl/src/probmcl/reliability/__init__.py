"""How far to trust a prediction: uncertainties, sets of labels with guaranteed coverage, and what they are worth."""
