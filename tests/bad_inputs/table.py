"""All bad inputs."""

from tests.bad_inputs import commands, data, models, runs

ROWS = [*commands.ROWS, *data.ROWS, *models.ROWS, *runs.ROWS]
