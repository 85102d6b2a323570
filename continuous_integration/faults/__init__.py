"""Real faults on real processes: what a cluster must bear, and whether it does."""
