"""The DAG, and the command line ``sida``. Run it from the root of the repository."""
