"""`python drive.py VERB STUDY ...`: the real command line, its jobs training with the fake."""

import fake_trainer

from sweeper import cli, worker

worker.work = fake_trainer.work_in_job

if __name__ == "__main__":
    cli.main()
