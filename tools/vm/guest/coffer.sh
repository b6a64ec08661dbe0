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

# A server that stands still is no dead server: the writer waits and goes on.
server_stands_still() {
    write_known s 4 /mnt note &
    writer=$!
    usleep 300000
    kill -STOP "$(cat /tmp/serve.pid)"
    sleep 12
    kill -CONT "$(cat /tmp/serve.pid)"
    wait $writer
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
need "coffer serve" serve
need "coffer attach" coffer attach web /dev/nbd0
need "mkfs.ext4" timeout 60 mkfs.ext4 -q -F /dev/nbd0
need "mount" mount -t ext4 /dev/nbd0 /mnt
need "write 25 MiB with fsync" write_before
need "snapshot while 25 MiB more are written" snapshot_under_writes
step "change, delete and write after the snapshot" change_after
need "volume from the snapshot" coffer volume create --snapshot "$(cat /tmp/snapshot)" --name web2
need "attach the restored volume" coffer attach web2 /dev/nbd1
need "its journal is replayed" replay /dev/nbd1 /mnt2
step "e2fsck finds it clean" timeout 60 e2fsck -fn /dev/nbd1
need "mount the restored volume" mount -t ext4 /dev/nbd1 /mnt2
step "files are as at the snapshot" same_hashes /mnt2 /tmp/expected
need "umount the restored volume" umount /mnt2
step "detach the restored volume" coffer detach web2
step "the server stands still for 12 s, the writer waits" server_stands_still
step "everything that the writer synced is there" same_hashes /mnt /tmp/known
need "umount" umount /mnt
step "coffer detach" coffer detach web
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
