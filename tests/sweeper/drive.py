"""`python drive.py VERB STUDY ...`: the real command line, its jobs training with the fake.

What takes minutes in the product takes seconds where the environment says so.
"""

import os

import fake_trainer

from sweeper import cli, elsewhere, worker

worker.work = fake_trainer.work_in_job
elsewhere.QUIET_SECONDS = float(os.environ.get("TEST_QUIET_SECONDS", elsewhere.QUIET_SECONDS))
elsewhere.WATCHED_SECONDS = min(elsewhere.WATCHED_SECONDS, elsewhere.QUIET_SECONDS)

if __name__ == "__main__":
    cli.main()
