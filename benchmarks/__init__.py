"""Published benchmarks: one command, ratios measured in one run, correctness checked before timing."""
