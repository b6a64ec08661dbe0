# The second boot from a disk whose machine was killed while it wrote. /promises: what it said was synced.
. /steps.sh
. /server.sh

is_unclean() {
    coffer volume show pl | tee /tmp/shown
    grep -Eq '^clean +false' /tmp/shown
}

take_snapshot() {
    SNAPSHOT=$(coffer snapshot create pl --wait -q) && echo "$SNAPSHOT" >/tmp/snapshot
}

restore() {
    coffer volume create --snapshot "$(cat /tmp/snapshot)" --name restored && coffer attach restored /dev/nbd1
}

mkdir -p /mnt /mnt2
need "coffer serve after the power loss" serve
step "the volume is unclean" is_unclean
need "coffer attach, without a detach before" coffer attach pl /dev/nbd0
need "its journal is replayed" replay /dev/nbd0 /mnt
step "e2fsck finds it clean" timeout 60 e2fsck -fn /dev/nbd0
need "mount" mount -t ext4 -o ro /dev/nbd0 /mnt
step "everything that was synced is there" same_hashes /mnt /promises
need "snapshot" take_snapshot
step "coffer snapshot verify" coffer snapshot verify "$(cat /tmp/snapshot)"
need "volume from the snapshot" restore
step "the first 96 MiB of both devices are the same" cmp -n 100663296 /dev/nbd0 /dev/nbd1
need "mount the restored volume" mount -t ext4 -o ro /dev/nbd1 /mnt2
step "its files are the same" same_hashes /mnt2 /promises
step "umount both" umount /mnt /mnt2
step "coffer detach" coffer detach pl
step "detach the restored volume" coffer detach restored
finish
