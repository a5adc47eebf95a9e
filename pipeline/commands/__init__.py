"""One module per verb of ``sida``.

A module's docstring is the verb's help, its first line the summary. It has ``ARGUMENTS`` and ``main(args) -> int``, the exit
status. It is imported when its verb is given, and imports torch when it needs it: ``sida VERB --help`` does not wait for that.
"""
