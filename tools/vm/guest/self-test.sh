# nbdkit and a plain file in coffer's place: proves kernel, modules, nbd-client, ext4 and dm-crypt of this harness.
. /steps.sh

serve() {
    truncate -s 512M /disk/plain
    nbdkit -f -U /run/nbd.sock /nbdkit-file-plugin.so file=/disk/plain >/tmp/nbdkit.log 2>&1 &
    poll 20 test -S /run/nbd.sock
}

write_some() {
    write_files a 20 /mnt && hashes /mnt /tmp/fsynced >/tmp/expected
}

# Two kinds of noise must be told apart: a wrong hash has to be seen.
sees_damage() {
    cp /tmp/expected /tmp/wrong && sed -i '1s/^......../00000000/' /tmp/wrong && ! same_hashes /mnt /tmp/wrong
}

mkdir -p /mnt /plain
need "nbdkit serves a file" serve
need "nbd-client attaches" nbd-client -unix /run/nbd.sock /dev/nbd0 -b 4096
need "mkfs.ext4" timeout 60 mkfs.ext4 -q -F /dev/nbd0
need "mount" mount -t ext4 /dev/nbd0 /mnt
need "write with fsync" write_some
step "a wrong hash is seen" sees_damage
need "umount" umount /mnt
step "e2fsck finds it clean" timeout 60 e2fsck -fn /dev/nbd0
need "mount again" mount -t ext4 /dev/nbd0 /mnt
step "files are the same" same_hashes /mnt /tmp/expected
need "umount again" umount /mnt
step "nbd-client detaches" nbd-client -d /dev/nbd0
need "dm-crypt opens a sealed file" open_plain /sealed.img /sealed.key sealed
need "mount what dm-crypt shows" mount -t ext4 -o ro /dev/mapper/sealed /plain
step "decrypted files are the same" same_hashes /plain /sealed.sha256
step "umount what dm-crypt shows" umount /plain
step "close dm-crypt" cryptsetup close sealed
finish
