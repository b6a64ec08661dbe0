# Steps that say how they went: `ok N - name` or `not ok N - name`. What they print goes to the log, indented.
passed=0
failed=0
number=0

finish() {
    ! type show_server_log >/dev/null 2>&1 || show_server_log
    echo "$passed passed, $failed failed"
    exit "$failed"
}

# step NAME COMMAND...: one step; the run goes on after a failure. Output and errors are shown as they come.
step() {
    name=$1
    shift
    number=$((number + 1))
    started=$(cut -d' ' -f1 /proc/uptime)
    echo "  > $*"
    "$@" >/tmp/step.out 2>&1 </dev/null
    code=$?
    sed 's/^/  | /' /tmp/step.out
    if [ $code -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok $number - $name"
    else
        failed=$((failed + 1))
        echo "not ok $number - $name"
        echo "  | exit status $code"
    fi
    echo "  | $started to $(cut -d' ' -f1 /proc/uptime) s"
    return $code
}

# need NAME COMMAND...: a step without which the later ones make no sense.
need() {
    step "$@" || finish
}

# poll SECONDS COMMAND...: waits until the command succeeds.
poll() {
    left=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || { echo "gave up waiting for: $*"; return 1; }
        usleep 100000
    done
}

# write_files PREFIX COUNT FOLDER: 1 MiB files of noise, each synced before its name is put down in /tmp/fsynced.
write_files() {
    n=0
    while [ $n -lt "$2" ]; do
        dd if=/dev/urandom of="$3/$1$n" bs=1M count=1 conv=fsync 2>/dev/null || return 1
        echo "$1$n" >>/tmp/fsynced
        n=$((n + 1))
    done
}

# write_known PREFIX COUNT FOLDER COMMAND...: 1 MiB files whose hashes are taken from the source, each synced with its folder
# before COMMAND is run with a line of sha256sum. Ends at the first error.
write_known() {
    prefix=$1 count=$2 folder=$3
    shift 3
    n=0
    while [ $n -lt "$count" ]; do
        dd if=/dev/urandom of="/tmp/known.$prefix" bs=1M count=1 2>/dev/null
        sum=$(sha256sum <"/tmp/known.$prefix")
        dd if="/tmp/known.$prefix" of="$folder/$prefix$n" bs=1M conv=fsync 2>/dev/null || return 1
        sync "$folder" || return 1
        "$@" "${sum%% *}  $prefix$n"
        n=$((n + 1))
    done
}

# hashes FOLDER LIST: sha256 of the files that LIST names.
hashes() {
    (cd "$1" && xargs sha256sum) <"$2"
}

same_hashes() {
    (cd "$1" && sha256sum -c -s "$2") || { (cd "$1" && sha256sum -c "$2" | grep -v ': OK$'); return 1; }
    echo "$(wc -l <"$2") files are the same"
}

# A journal is replayed by a mount; only then has e2fsck -n something whole to look at.
replay() {
    mount -t ext4 "$1" "$2" && umount "$2"
}

# open_plain IMAGE KEYFILE NAME: dm-crypt's view of a sealed image.
open_plain() {
    timeout 60 cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 512 --sector-size 4096 \
        --iv-large-sectors --key-file "$2" "$1" "$3"
}
