"""`mlflow server` many times for the price of one import: this process imports MLflow and forks each server.

Each line of the input is an order, in JSON: the words after `mlflow server`, the environment, and the log.
The answer is the server's process id. MLflow's own command reads the words and prepares the database. Only
the second interpreter is saved, which it starts for uvicorn, and the imports of both.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import mlflow.cli
import mlflow.server.fastapi_app  # imports all that a server needs
import uvicorn.main
from mlflow import server

_APP = "mlflow.server.fastapi_app"


def serve(words: list[str], environment: dict[str, str], log: str) -> None:
    """Be the server that `mlflow server WORDS` starts."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)

    def run_here(command: list[str], extra_env: dict[str, str], **_: Any) -> None:
        os.environ.update(extra_env)
        importlib.reload(sys.modules[_APP])  # it reads the environment when it is imported
        uvicorn.main.main(command[command.index("uvicorn") + 1 :])

    server._exec_cmd = run_here
    mlflow.cli.cli(["server", *words])


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    for line in sys.stdin:
        order = json.loads(line)
        if (pid := os.fork()) == 0:
            try:
                serve(**order)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
