"""`palimpsest` whose `schedule` looks more often, so that no test waits for its next look."""

from flows import cli, schedule

schedule.POLL = 0.2
cli.app()
