"""A W&B server on 127.0.0.1 to try things by hand; it keeps its data in memory, or in an SQLite file.

python -m tests.wandb_server --port 8085 --database wandb.sqlite
"""

import threading

from errors import Arguments
from tests.wandb_server.server import HANG, KEY, WandbServer

if __name__ == "__main__":
    arguments = Arguments("python -m tests.wandb_server", description=__doc__)
    arguments.add_argument("--port", type=int, default=8085, help="0 takes a free one (default: 8085)")
    arguments.add_argument("--database", default=":memory:", metavar="FILE", help="an SQLite file (default: in memory)")
    arguments.add_argument("--fail", type=int, metavar="STATUS", help=f"answer with this HTTP status; {HANG}: never answer")
    arguments.add_argument(
        "--where", default="", metavar="PART", help="with --fail: only requests whose path contains this, such as file_stream"
    )
    arguments.add_argument("--times", type=int, metavar="N", help="with --fail: only the first N of them")
    options = arguments.parse_args()
    server = WandbServer(options.port, options.database).start()
    if options.fail is not None:
        server.fail(options.fail, options.where, options.times)
    print(f"export WANDB_BASE_URL={server.url} WANDB_API_KEY={KEY} WANDB_ENTITY={server.entity}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        server.stop()
