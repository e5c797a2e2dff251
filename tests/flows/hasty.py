"""`palimpsest` whose `schedule` looks more often, so that no test waits for its next look."""

from flows import cli, schedule

if __name__ == "__main__":
    schedule.POLL = 0.5
    cli.app()
