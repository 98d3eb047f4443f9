#!/usr/bin/env bash
# Start a local Ray head with its dashboard and token authentication, and say how to use it.
# It stays in the foreground: Ctrl-C ends it, and only it. It stands beside any other Ray on this machine, because every
# port is one that is free.
set -euo pipefail
venv=$(cd "${1:-.venv}" && pwd)
export RAY_AUTH_MODE=token
export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-300} # after 3 seconds, `ray job stop` would kill a run that saves
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
  mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
  (umask 077; "$venv/bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
fi
# The preferred ports of head and dashboard, else free ones; the others have no preference.
ports=$("$venv/bin/python" - "${RAY_HEAD_PORT:-6379}" "${RAY_DASHBOARD_PORT:-8265}" <<'PY'
import socket
import sys

held = []


def port(preferred: int) -> int:
    for wanted in (preferred, 0):
        one = socket.socket()
        try:
            one.bind(("", wanted))
        except OSError:
            continue
        held.append(one)
        return one.getsockname()[1]
    raise SystemExit("no free port")


print(*(port(number) for number in (int(sys.argv[1]), int(sys.argv[2]), 0, 0, 0, 0, 0)))
PY
)
read -r port dashboard agent agent_grpc metrics client environments <<<"$ports"
cluster=$(if nvidia-smi -L >/dev/null 2>&1; then echo " cluster=1x1"; fi) # the CUDA build has no engine for CPU
cat <<TXT
A Ray head on this machine, port $port, dashboard at http://127.0.0.1:$dashboard (Ctrl-C ends it). In another terminal:

  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard
  $venv/bin/ray job submit --working-dir . -- $venv/bin/python -m mel_ray.main run.dir=$PWD/runs run.name=first run.resume=auto$cluster

The same command again continues the run.

TXT
# A shell starts background jobs deaf to Ctrl-C, and what they start inherits it: listen again.
exec "$venv/bin/python" -c '
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
' "$venv/bin/ray" start --head --block --port "$port" --dashboard-host 127.0.0.1 --dashboard-port "$dashboard" \
  --dashboard-agent-listen-port "$agent" --dashboard-agent-grpc-port "$agent_grpc" --metrics-export-port "$metrics" \
  --ray-client-server-port "$client" --runtime-env-agent-port "$environments" \
  --disable-usage-stats ${RAY_HEAD_OPTIONS:-}
