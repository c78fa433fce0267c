"""Files of a run folder, and the statistics, figures and videos made from them."""
