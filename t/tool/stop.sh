#!/bin/sh
# Stops the nginx that `make run` started, by its pid file.
pid=$(cat run/nginx.pid 2>/dev/null)
if [ -z "$pid" ] || ! kill -QUIT "$pid" 2>/dev/null; then
    [ "$1" = quiet ] || echo "not running"
    exit 0
fi

i=0
while kill -0 "$pid" 2>/dev/null && [ $i -lt 100 ]; do
    i=$((i + 1))
    sleep 0.1
done
kill -TERM "$pid" 2>/dev/null
[ "$1" = quiet ] || echo "stopped"
exit 0
