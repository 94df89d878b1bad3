"""The training lab: `python -m initconf.lab model=mlp data=digits init=he` watches one initialisation train.

Importing this package loads nothing; `initconf.lab.results`, which reads what the runs left, loads no torch.
"""
