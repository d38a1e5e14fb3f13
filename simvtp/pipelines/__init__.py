"""Jobs to run with `python -m`: pretrain, evaluate, visualize."""
