# coffer in the guest, and its server.
coffer() { timeout 120 /bin/coffer --data /data "$@"; }

# It says that it serves when all its sockets are open. A socket's file proves nothing: a killed server leaves it.
serve() {
    cat /tmp/serve.log >>/tmp/serve.old 2>/dev/null
    /bin/coffer --data /data serve >/tmp/serve.log 2>&1 </dev/null &
    echo $! >/tmp/serve.pid
    poll 30 grep -q '^coffer: serving' /tmp/serve.log && test -S /data/control.sock
}

show_server_log() {
    [ "$failed" -eq 0 ] || cat /tmp/serve.old /tmp/serve.log 2>/dev/null | sed 's/^/  serve| /'
}
