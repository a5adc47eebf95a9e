"""The DAG, and the command line ``python -m pipeline``. Run it from the root of the repository."""
