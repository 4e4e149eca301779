"""The commands of ``tritonstdp``, a module each: its options, one call, and what is printed.

Each offers ``add_arguments(parser)`` and ``run(arguments) -> exit status``. What a program could want is elsewhere.
"""
