"""Torture: the whole system, hundreds of clients, everything breaks, and then the promise is checked.

    python -m tests.fault.torture --minutes 10 --seed 1

Storms of faults (from the seed, which is printed) and calms take turns; in each calm the histories of all clients are
checked against each other, against the table and against REST. Exit code 0: nothing was found. 1: a promise was broken;
the first violation's timeline is in the file that is named.

    python -m tests.fault.torture --planted all

puts known faults into the real processes, one after the other, and must find each of them.
"""

import sys

from tests.fault.torture.command import main

if __name__ == "__main__":
    sys.exit(main(__doc__ or ""))
