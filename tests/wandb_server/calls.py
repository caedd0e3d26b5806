"""A small search, and what tests ask the server of it."""

from typing import Any

import yaml

GRID: dict[str, Any] = {"method": "grid", "parameters": {"b": {"values": [0.5, 0.25]}, "a": {"values": [1, 2]}}}
POINTS = [(1, 0.5), (1, 0.25), (2, 0.5), (2, 0.25)]


def mutation(server, mutation_name, /, **given):
    return server.schema.mutation()[mutation_name](input=given)


def new_sweep(server, config=GRID, **more):
    return mutation(server, "upsertSweep", config=yaml.safe_dump(config | more), projectName="palimpsest")["sweep"]["name"]


def states(server, sweep):
    return [run["state"] for run in server.sweep(sweep)["runs"]]
