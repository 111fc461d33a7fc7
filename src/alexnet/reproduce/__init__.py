"""The paper's claims as experiments: networks, runs, records, and verdicts by rules written down before the runs."""
