"""The paper's claims as experiments: training runs, records, and verdicts by rules that are fixed before the runs.

>>> from alexnet.tools import reproduce
>>> from alexnet.tools.reproduce.run import run_experiment  # imports torch; the list of experiments does not
>>> result = run_experiment(reproduce.find("figure-1"), data="digits", out="runs/figure-1", seeds=1)
"""

from alexnet.tools.reproduce.experiments import *  # noqa: F403
