#!/bin/sh
# run.sh: what `make run` does after building: gets a model, writes a
# configuration, starts nginx on 127.0.0.1:PORT, streams one answer and says
# how to go on. Environment: PORT, MODEL (a GGUF file), BUILD.
PORT=${PORT:-8080}
BUILD=${BUILD:-build}
top=$(pwd)
demo=models/SmolLM2-135M-Instruct.Q4_1.gguf
model=$MODEL

sh t/tool/stop.sh quiet

if [ -z "$model" ]; then
    sh t/tool/fetch_model.sh "$demo"
    model=$demo
    if [ ! -s "$model" ]; then
        model=$BUILD/tiny.gguf
        echo "using the generated tiny model: its answer is noise"
    fi
fi
case $model in /*) ;; *) model=$top/$model ;; esac
[ -r "$model" ] || { echo "cannot read $model" >&2; exit 1; }

# Workers run as the user who owns nothing: the files must be readable for
# it. As root they stay root here, since a clone often lies in /root.
user=
[ "$(id -u)" != 0 ] || user="user root;"

mkdir -p run/logs run/tmp
cat > run/nginx.conf <<EOC
load_module $top/$BUILD/ngx_http_infer_module.so;
$user
worker_processes 2;
pid $top/run/nginx.pid;
error_log $top/run/logs/error.log notice;

events { worker_connections 512; }

http {
    access_log $top/run/logs/access.log;
    client_body_temp_path $top/run/tmp/body;
    proxy_temp_path $top/run/tmp/proxy;
    fastcgi_temp_path $top/run/tmp/fastcgi;
    uwsgi_temp_path $top/run/tmp/uwsgi;
    scgi_temp_path $top/run/tmp/scgi;

    infer_model demo { path "$model"; }

    server {
        listen 127.0.0.1:$PORT;
        location /v1/ { infer demo; client_max_body_size 8m; }
        location / { infer demo; }
    }
}
EOC

echo "starting nginx on 127.0.0.1:$PORT with $(basename "$model")"
nginx -p "$top/run" -c "$top/run/nginx.conf" \
    || { echo "see $top/run/logs/error.log" >&2; exit 1; }

i=0
until curl -fs "http://127.0.0.1:$PORT/health/ready" > /dev/null 2>&1; do
    i=$((i + 1))
    if [ $i -gt 600 ]; then
        echo "the model did not get ready:" >&2
        tail -20 run/logs/error.log >&2
        sh t/tool/stop.sh quiet
        exit 1
    fi
    sleep 0.1
done

echo
echo "> Name three colors."
curl -fsN "http://127.0.0.1:$PORT/v1/chat/completions" \
    -H 'Content-Type: application/json' -d '{"stream": true,
    "temperature": 0, "max_tokens": 64, "messages": [{"role": "user",
    "content": "Name three colors."}]}' \
    | python3 -uc '
import json, sys
done = False
for line in sys.stdin:
    if not line.startswith("data: "):
        continue
    if line[6:].strip() == "[DONE]":
        done = True
        break
    event = json.loads(line[6:])
    if "error" in event:
        sys.exit("error: " + event["error"]["message"])
    for choice in event["choices"]:
        print(choice["delta"].get("content") or "", end="", flush=True)
print()
sys.exit(0 if done else "the stream ended early")' || exit 1

cat <<EOC

It goes on running. Ask it yourself:

  curl -N http://127.0.0.1:$PORT/v1/chat/completions \\
       -H 'Content-Type: application/json' \\
       -d '{"stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'

  logs: run/logs/   configuration: run/nginx.conf   end it: make stop
EOC
