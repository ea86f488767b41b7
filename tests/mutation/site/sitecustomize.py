"""Python imports this at its start, if its folder is on the path: see `tests.mutation.dropping`."""

import sys

if "router" in sys.orig_argv:
    from tests.mutation.dropping import install

    install()
