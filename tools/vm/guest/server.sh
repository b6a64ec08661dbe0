# coffer in the guest, and its server.
coffer() { timeout 120 /bin/coffer --data /data "$@"; }

# Where it listens beside the default, once there are certificates.
tls_arguments() {
    [ ! -d /root/tls ] || echo "--listen unix:/data/nbd.sock --listen tcp:127.0.0.1:10809 --tls /root/tls --tls12"
}

# It says that it serves when all its sockets are open. A socket's file proves nothing: a killed server leaves it.
serve() {
    cat /tmp/serve.log >>/tmp/serve.old 2>/dev/null
    /bin/coffer --data /data serve $(tls_arguments) >/tmp/serve.log 2>&1 </dev/null &
    echo $! >/tmp/serve.pid
    poll 30 grep -q '^coffer: serving' /tmp/serve.log && test -S /data/control.sock
}

# A kill that nobody is told of, and the next server.
kill_and_serve() {
    kill -KILL "$(cat /tmp/serve.pid)" && serve
}

# Requests that the device has done, of both kinds.
requests_done() { awk '{print $1 + $5}' "/sys/block/$1/stat"; }

# went_on DEVICE COUNT: it has done requests since that count.
went_on() { [ "$(requests_done "$1")" -gt "$2" ]; }

# What a file system's user would have noticed.
kernel_is_content() {
    ! dmesg | grep -Ei 'i/o error|remounting|ext4-fs (error|warning)|aborting journal|lost async page write'
}

show_server_log() {
    [ "$failed" -ne 0 ] || return 0
    cat /tmp/serve.old /tmp/serve.log 2>/dev/null | sed 's/^/  serve| /'
    cat /run/coffer-attach/*.log 2>/dev/null | sed 's/^/  helper| /'
    dmesg | tail -n 40 | sed 's/^/  kernel| /'
}
