#!/usr/bin/env bash
# Start a local Ray head with its dashboard and token authentication, and say how to use it.
# It stays in the foreground: Ctrl-C ends it, and only it.
set -euo pipefail
venv=$(cd "${1:-.venv}" && pwd)
port=${RAY_HEAD_PORT:-6379}
dashboard=${RAY_DASHBOARD_PORT:-8265}
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
  mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
  (umask 077; "$venv/bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
fi
cat <<TXT
A Ray head on this machine, dashboard at http://127.0.0.1:$dashboard (Ctrl-C ends it). In another terminal:

  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard
  $venv/bin/ray job submit --working-dir . -- $venv/bin/python -m mel_ray.main run.dir=$PWD/runs

TXT
exec "$venv/bin/ray" start --head --block --port "$port" --dashboard-host 127.0.0.1 --dashboard-port "$dashboard" \
  --disable-usage-stats ${RAY_HEAD_OPTIONS:-}
