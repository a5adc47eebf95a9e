"""The steps as components: for Kubeflow Pipelines, for kfp's local runner, and one at a time on a command line.

Everything here follows from the steps' own signatures (``sida.registry``); ``views`` adds what Kubeflow's pages show.
"""
