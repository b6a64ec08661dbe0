# A new user's day with coffer: key, volume, ext4, snapshot under writes, restore, a killed server, delete, export to
# dm-crypt; at its end files are written until the host kills this machine.
. /steps.sh
. /server.sh

noise() { head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
MARKER=coffer-marker-$(noise)
CONTROL=coffer-control-$(noise)

write_before() {
    echo "$MARKER" >/mnt/marker && sync && echo marker >/tmp/fsynced && write_files a 25 /mnt
}

# The snapshot is taken while another process writes; only files synced before it began must be in it.
snapshot_under_writes() {
    cp /tmp/fsynced /tmp/before
    hashes /mnt /tmp/before >/tmp/expected || return 1
    write_files b 25 /mnt &
    writer=$!
    SNAPSHOT=$(coffer snapshot create web --wait -q) || { wait $writer; return 1; }
    echo "snapshot $SNAPSHOT, $(grep -c '^b' /tmp/fsynced) files were written meanwhile"
    echo "$SNAPSHOT" >/tmp/snapshot
    wait $writer || return 1
    case $SNAPSHOT in
        *[!a-z0-9-]*) echo "-q printed more than the id"; return 1 ;;
        snap-?*) ;;
        *) echo "that is no snapshot id"; return 1 ;;
    esac
}

change_after() {
    rm /mnt/a0 /mnt/a1 /mnt/b2 && dd if=/dev/urandom of=/mnt/a3 bs=1M count=2 conv=fsync && write_files c 10 /mnt && sync
}

# The kernel's request timeout is 10 s: after that it sends again, on connections that the helper has to make.
server_stands_still() {
    write_known s 4 /mnt note &
    writer=$!
    usleep 300000
    kill -STOP "$(cat /tmp/serve.pid)"
    sleep 12
    kill -CONT "$(cat /tmp/serve.pid)"
    wait $writer
}

# attach_chosen VOLUME EXPECTED ARGUMENTS...: no device is named; the one that is chosen is said.
attach_chosen() {
    coffer attach "$1" $3 $4 >/tmp/attached && cat /tmp/attached && grep -q " is attached as $2 " /tmp/attached
}

# connections VOLUME ALIVE/TOTAL, by `coffer attachments`.
connections() {
    coffer attachments >/tmp/attachments
    grep -Eq " $1 +/dev/nbd[0-9]+ +$2 +[0-9]+ " /tmp/attachments
}

# The same volume over TLS, by a client that was allowed it for its certificate. nbd-client keeps a process for TLS.
over_tls() {
    coffer tls allow guest --volume web2 >/dev/null || return 1
    certs=/root/tls/clients/guest
    nbd-client 127.0.0.1 10809 /dev/nbd1 -N web2 -b 4096 -cacertfile $certs/ca-cert.pem -certfile $certs/client-cert.pem \
        -keyfile $certs/client-key.pem -tlshostname localhost || return 1
    mount -t ext4 -o ro,noload /dev/nbd1 /mnt2 && same_hashes /mnt2 /tmp/expected
    result=$?
    umount /mnt2 && nbd-client -d /dev/nbd1 && [ $result -eq 0 ]
}

helper_of() { sed 's/.*"pid":\([0-9]*\).*/\1/' "/run/coffer-attach/$1"; }

# The kernel's own list of arguments and the environment must not have the attachment's token.
helper_keeps_its_secret() {
    pid=$(helper_of nbd0)
    tr '\0' ' ' <"/proc/$pid/cmdline" && cat "/proc/$pid/comm" && grep -q '^coffer:nbd0$' "/proc/$pid/comm" || return 1
    ! tr '\0' '\n' <"/proc/$pid/cmdline" | grep 'att-' && ! tr '\0' '\n' <"/proc/$pid/environ" | grep 'att-'
}

refuses_while_mounted() {
    coffer detach web
    [ $? -eq 5 ] && grep -q '^/dev/nbd0 /mnt ' /proc/mounts
}

# fio_round NUMBER ARGUMENTS...: four writers, each at an even pace past the page cache, whose blocks say what they are.
fio_round() {
    folder=/mnt/fio/$1
    shift
    mkdir -p "$folder" && cd / && fio --name=round --directory="$folder" --numjobs=4 --thread --group_reporting \
        --size=2M --bs=16k --rw=randwrite --direct=1 --ioengine=psync --fsync=4 --rate_iops=16 --verify=crc32c \
        --fallocate=none --output-format=json "$@"
}

# Writes a round and reads it again, until it is enough.
fio_rounds() {
    n=0
    until [ -e /tmp/enough ]; do
        fio_round $n >/tmp/fio.$n.json 2>/tmp/fio.err || { cat /tmp/fio.err; grep '"error"' /tmp/fio.$n.json; return 1; }
        n=$((n + 1))
    done
    echo "fio was content with $n rounds"
}

# Has fio write and read while COMMAND is at work; what the first round wrote is read once more at the end.
fio_under() {
    rm -rf /mnt/fio /tmp/enough /tmp/fio.*
    fio_rounds &
    writer=$!
    poll 20 test -s /mnt/fio/0/round.0.0 || return 1
    "$@"
    done=$?
    touch /tmp/enough
    wait $writer && [ $done -eq 0 ] && fio_round 0 --verify_only >/tmp/verify.json || return 1
    # Every "max" in there is a time in nanoseconds.
    cat /tmp/fio.*.json | awk -F: '/"max" :/ && $2 + 0 > most {most = $2 + 0}
        END {printf "longest pause of one request: %.1f s\n", most / 1e9}'
    kernel_is_content
}

# Requests that were under way when a server died go on 10 s later. Every fifth time that is waited for, so that all writers
# are at work again; else the next kill comes into the middle of it.
killed_twenty_times() {
    kills=0
    while [ $kills -lt 20 ]; do
        kill -0 "$writer" 2>/dev/null || { echo "the writer ended after $kills kills"; return 1; }
        kill_and_serve || return 1
        kills=$((kills + 1))
        before=$(requests_done nbd0)
        patience=1
        [ $((kills % 5)) -ne 0 ] || patience=15
        poll $patience went_on nbd0 "$((before + 30))" >/dev/null || true
        echo "kill $kills: $(($(requests_done nbd0) - before)) requests until the next"
    done
    echo "$kills kills, $(cut -d' ' -f1 /proc/uptime) s"
}

# Without its helper a device goes on; the next attach gives it another, and that one does the work.
helper_is_replaced() {
    old=$(helper_of nbd0)
    kill -KILL "$old" && coffer attach web && [ "$(helper_of nbd0)" -ne "$old" ] || return 1
    kill_and_serve && poll 20 connections web 4/4 && write_known h 1 /mnt note
}

grows_while_attached() {
    size=$(($(blockdev --getsize64 /dev/nbd0) + 67108864))
    coffer volume grow web --size $size && [ "$(blockdev --getsize64 /dev/nbd0)" -eq $size ]
}

one_connection() {
    coffer attach web --connections 1 && mount -t ext4 /dev/nbd0 /mnt || return 1
    write_known o 6 /mnt note &
    writer=$!
    usleep 500000
    kill_and_serve && wait $writer && same_hashes /mnt /tmp/known && connections web 1/1 && umount /mnt && kernel_is_content
}

# The key is disabled under the writer and enabled again; the kernel's requests are held meanwhile.
key_suspended() {
    coffer key disable alias/prod && sleep "$SUSPEND" && coffer volume show web | grep '^state ' || return 1
    before=$(requests_done nbd0)
    coffer key enable alias/prod && poll 30 went_on nbd0 "$before"
}

note() { echo "$1" >>/tmp/known; }

power_loss_begins() {
    coffer volume create --size "$VOLUME_SIZE" --key alias/prod --name pl && coffer attach pl /dev/nbd0 &&
        timeout 60 mkfs.ext4 -q -F /dev/nbd0 && mount -t ext4 /dev/nbd0 /mnt
}

mkdir -p /mnt /mnt2 /plain
need "coffer init" coffer init --key-file /root/coffer.key
need "coffer key create" coffer key create --alias alias/prod
need "coffer volume create" coffer volume create --size "$VOLUME_SIZE" --key alias/prod --name web
need "coffer tls init" coffer tls init --dir /root/tls --name localhost --client guest
need "coffer serve" serve
need "coffer attach, four connections, no device named" attach_chosen web /dev/nbd0 --connections 4
step "coffer attachments shows them" connections web 4/4
step "the helper's arguments and environment hold no token" helper_keeps_its_secret
need "mkfs.ext4" timeout 60 mkfs.ext4 -q -F /dev/nbd0
need "mount" mount -t ext4 /dev/nbd0 /mnt
need "write 25 MiB with fsync" write_before
need "snapshot while 25 MiB more are written" snapshot_under_writes
step "change, delete and write after the snapshot" change_after
need "volume from the snapshot" coffer volume create --snapshot "$(cat /tmp/snapshot)" --name web2
need "nbd-client attaches the restored volume, four connections" \
    nbd-client -unix /data/nbd.sock /dev/nbd1 -N web2 -b 4096 -C 4
need "its journal is replayed" replay /dev/nbd1 /mnt2
step "e2fsck finds it clean" timeout 60 e2fsck -fn /dev/nbd1
need "mount the restored volume" mount -t ext4 /dev/nbd1 /mnt2
step "files are as at the snapshot" same_hashes /mnt2 /tmp/expected
need "umount the restored volume" umount /mnt2
step "nbd-client detaches it" nbd-client -d /dev/nbd1
step "nbd-client attaches it over TLS, and its files are the same" over_tls
step "detach is refused while it is mounted" refuses_while_mounted
step "the server is killed 20 times under fio" fio_under killed_twenty_times
step "every connection is there again" poll 20 connections web 4/4
step "a killed helper is replaced" helper_is_replaced
[ "${SUSPEND:-0}" -eq 0 ] || step "the key is suspended for $SUSPEND s under fio" fio_under key_suspended
step "the volume grows, and the kernel's device with it" grows_while_attached
step "the server stands still for 12 s, the writer waits" server_stands_still
step "everything that the writer synced is there" same_hashes /mnt /tmp/known
need "umount" umount /mnt
step "coffer detach" coffer detach web
step "one connection: the server is killed under a writer" one_connection
step "coffer detach again" coffer detach web
step "the kernel has seen no error" kernel_is_content
step "coffer volume delete" coffer volume delete web
need "export, sealed, holes filled" coffer volume export --sealed --fill-holes web2 /disk/export
need "export the key" coffer volume export-key web2 --out /run/key
step "the key has 64 bytes" test "$(wc -c </run/key)" -eq 64
need "dm-crypt opens the export" open_plain /disk/export /run/key sealed
need "mount what dm-crypt shows" mount -t ext4 -o ro /dev/mapper/sealed /plain
step "decrypted files are as at the snapshot" same_hashes /plain /tmp/expected
step "umount what dm-crypt shows" umount /plain
step "close dm-crypt" cryptsetup close sealed
step "coffer volume delete, the restored one" coffer volume delete web2
rm -f /disk/export
need "a new volume is mounted" power_loss_begins
show_server_log
echo "$passed passed, $failed failed"
# The host looks for both on this machine's disk: the first must be nowhere, the second shows that it can find one.
echo "$CONTROL" >/disk/control
sync
echo "marker $MARKER"
echo "control $CONTROL"
# The host takes these lines down as promises, and kills this machine in the middle.
promise() { echo "synced $1"; }
write_known p 300 /mnt promise
echo "the host did not kill this machine"
