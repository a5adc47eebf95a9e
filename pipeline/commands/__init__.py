"""One module per verb of ``sida``.

A module's docstring is the verb's help, its first line the summary. It has ``add_arguments(parser)`` and ``main(args) -> int``, the
exit status, and imports nothing heavy before ``main``: ``--help`` reads them all.
"""
