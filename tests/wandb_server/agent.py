"""The client's own `wandb agent`, which asks ten times a second instead of every five seconds.

python -m tests.wandb_server.agent ENTITY/PROJECT/SWEEP [options of wandb agent]
"""

import sys

from wandb import wandb_agent
from wandb.cli.cli import cli

if __name__ == "__main__":
    wandb_agent.Agent.POLL_INTERVAL = 0.1  # type: ignore[assignment]
    cli(["agent", *sys.argv[1:]], prog_name="wandb")
