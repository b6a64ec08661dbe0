//! libnbd from its Python shell: every command and flag that coffer supports, and what it rejects.

use super::*;
use std::os::unix::fs::MetadataExt;

/// Runs a script in nbdsh, connected to `uri` as `h`, under the interpreter that libnbd's bindings are installed for.
pub(super) fn command(uri: &str, script: &str) -> Command {
    run("/usr/bin/python3", &["-m", "nbd", "-u", uri, "-c", script])
}

/// Checks that the export is refused; libnbd shows the server's message only with debugging on.
#[track_caller]
pub(super) fn refused(uri: &str, words: &[&str]) {
    bad(command(uri, "h.pread(1, 0)").env("LIBNBD_DEBUG", "1"), words);
}

pub(super) fn requires_shell() -> bool {
    let there = output(&mut run("/usr/bin/python3", &["-c", "import nbd"])).code == 0;
    there || skip("python3-libnbd")
}

#[track_caller]
fn script(scratch: &Scratch, text: &str) -> String {
    good(&mut command(&scratch.uri("web"), text))
}

#[test]
fn what_is_offered() {
    let s = with_volume("5000KiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    script(
        &s,
        r#"
assert h.get_size() == 5000 << 10
assert h.get_protocol() == "newstyle-fixed"
for can in ("flush", "fua", "trim", "zero", "cache", "multi_conn", "df", "fast_zero"):
    assert getattr(h, "can_" + can)(), can
assert not h.is_read_only() and not h.is_rotational()
assert h.get_structured_replies_negotiated() and not h.get_tls_negotiated()
sizes = [h.get_block_size(i) for i in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
assert sizes == [1, 4096, 32 << 20], sizes
"#,
    );
}

/// Random commands of every kind at odd offsets, mirrored in memory; every read is compared with the mirror.
#[test]
fn every_command_at_odd_places() {
    let s = with_volume("6MiB");
    let served = s.serve();
    if !requires_shell() {
        return;
    }
    let text = r#"
import hashlib, random
n = h.get_size()
model = bytearray(n)
done = {}
random.seed(20241)
for step in range(400):
    length = random.choice((1, 511, 512, 513, 4095, 4096, 4097, 70001, 524288, 600001))
    at = random.choice((random.randrange(n - length + 1), random.randrange((n - length) // 512 + 1) * 512, n - length))
    fua = random.choice((0, nbd.CMD_FLAG_FUA))
    verb = random.choice(("pwrite", "pwrite", "pwrite", "zero", "zero no hole", "trim", "cache", "flush", "pread"))
    done[verb, fua] = done.get((verb, fua), 0) + 1
    if verb == "pwrite":
        data = random.randbytes(length)
        h.pwrite(data, at, fua)
        model[at:at + length] = data
    elif verb.startswith("zero"):
        h.zero(length, at, fua | (nbd.CMD_FLAG_NO_HOLE if "no" in verb else 0))
        model[at:at + length] = bytes(length)
    elif verb == "trim":
        h.trim(length, at, fua)
        first, end = -(-at // 512) * 512, (at + length) // 512 * 512
        if first < end:
            model[first:end] = bytes(end - first)
    elif verb == "cache":
        h.cache(length, at)
    elif verb == "flush":
        h.flush()
    first, end = max(0, at - 5000), min(n, at + length + 5000)
    assert h.pread(end - first, first) == model[first:end], (step, verb, at, length)
assert len(done) == 14 and min(done.values()) > 2, done
h.flush()
whole = h.pread(n, 0)
assert whole == model
print(hashlib.sha256(whole).hexdigest())
"#;
    let first = script(&s, text);
    assert_eq!(served.stop(), 0);
    // And the next server sees the same.
    let _served = s.serve();
    let again = "import hashlib\nprint(hashlib.sha256(h.pread(h.get_size(), 0)).hexdigest())";
    assert_eq!(script(&s, again), first);
}

#[test]
fn zeroes_with_and_without_holes() {
    let s = with_volume("4MiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    // The file's own bookkeeping varies by a few blocks.
    let most = MIB - (64 << 10);
    let blocks = || std::fs::metadata(s.file("web")).unwrap().blocks() * 512;
    let empty = blocks();
    script(&s, "h.pwrite(b'x' * (2 << 20), 1 << 20)\nh.flush()");
    let full = blocks();
    assert!(full >= empty + 2 * most, "{empty} {full}");
    script(
        &s,
        "h.zero(2 << 20, 1 << 20, nbd.CMD_FLAG_NO_HOLE)\nassert h.pread(4 << 20, 0) == bytes(4 << 20)\nh.flush()",
    );
    let kept = blocks();
    assert!(kept + (64 << 10) >= full, "NO_HOLE keeps the space: {full} {kept}");
    script(&s, "h.zero(1 << 20, 1 << 20)\nassert h.pread(4 << 20, 0) == bytes(4 << 20)\nh.flush()");
    let half = blocks();
    assert!(half <= full - most, "{full} {half}");
    script(&s, "h.trim(1 << 20, 2 << 20)\nassert h.pread(4 << 20, 0) == bytes(4 << 20)\nh.flush()");
    assert!(blocks() <= half - most, "{half} {}", blocks());
}

/// 32 MiB is the largest payload. Longer or out-of-bounds requests get an error, and the connection continues.
#[test]
fn limits_and_refusals() {
    let s = with_volume("100MiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    script(
        &s,
        r#"
import errno, random
h.set_strict_mode(0)
n, most = h.get_size(), 32 << 20
data = random.randbytes(most)
h.pwrite(data, 12345)
assert h.pread(most, 12345) == data

def refused(number, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        assert error.errnum == number, (error, number, args[1:])
    else:
        assert False, (call, args[1:])
    assert h.pread(most // 2, 12345) == data[:most // 2]

refused(errno.EOVERFLOW, h.pread, most + 1, 0)
refused(errno.EINVAL, h.pwrite, bytes(most + 1), 0)
refused(errno.EINVAL, h.pwrite, bytes(64 << 20), 0)
refused(errno.EINVAL, h.pread, 1, n)
refused(errno.EINVAL, h.pread, 2, n - 1)
refused(errno.EINVAL, h.pread, 4096, (1 << 63) - 4096)
refused(errno.ENOSPC, h.pwrite, b"x", n)
refused(errno.ENOSPC, h.pwrite, b"xx", n - 1)
refused(errno.ENOSPC, h.pwrite, b"x" * 4096, (1 << 63) - 1)
refused(errno.ENOSPC, h.zero, 513, n - 512)
refused(errno.EINVAL, h.trim, 513, n - 512)
refused(errno.EINVAL, h.cache, 513, n - 512)
refused(errno.EINVAL, h.trim, 512, 0, nbd.CMD_FLAG_FAST_ZERO)
refused(errno.EINVAL, h.pread, 512, 0, nbd.CMD_FLAG_NO_HOLE)
# Without payload there is no such limit.
h.zero(n, 0)
assert h.pread(most, 0) == bytes(most)
h.pwrite(b"end", n - 3)
h.trim(n, 0)
h.cache(n, 0)
assert h.pread(3, n - 3) == bytes(3)
"#,
    );
}

/// What one connection was told is done, another one sees after a flush on either (CAN_MULTI_CONN).
#[test]
fn two_connections_see_each_other() {
    let s = with_volume("8MiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    let text = r#"
import random
other = nbd.NBD()
other.connect_uri("URI")
assert h.can_multi_conn() and other.can_multi_conn()
random.seed(7)
pair = [h, other]
for step in range(200):
    random.shuffle(pair)
    at, data = random.randrange((8 << 20) - 9000), random.randbytes(random.randrange(1, 9000))
    pair[0].pwrite(data, at)
    random.choice(pair).flush()
    assert pair[1].pread(len(data), at) == data, step
# Many at once, on both, at disjoint places inside the same sectors; one flush, and each sees all.
cookies = []
buffers = [random.randbytes(100) for _ in range(2000)]
for i, data in enumerate(buffers):
    link = pair[i % 2]
    cookies.append((link, link.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), i * 100)))
for link, cookie in cookies:
    while not link.aio_command_completed(cookie):
        link.poll(-1)
other.flush()
assert h.pread(200000, 0) == other.pread(200000, 0) == b"".join(buffers)
other.shutdown()
assert h.pread(100, 0) == buffers[0]
"#;
    script(&s, &text.replace("URI", &s.uri("web")));
}

#[test]
fn a_second_process_is_refused_by_name_while_the_first_lives() {
    let s = with_volume("1MiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    // The first one says when it is connected, and stays until its standard input ends.
    let mut first = command(&s.uri("web"), "import sys\nh.pwrite(b'1', 0)\nprint('in', flush=True)\nsys.stdin.read()");
    let mut first = first.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = [0; 3];
    first.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(said, *b"in\n");
    let holder = format!("process {}", first.id());
    refused(&s.uri("web"), &["volume web", &holder]);
    first.kill().unwrap();
    first.wait().unwrap();
    // The server may not have noticed its end yet; the next one waits for that, and is not refused.
    for _ in 0..20 {
        good(&mut command(&s.uri("web"), "assert h.pread(1, 0) == b'1'\nh.pwrite(b'1', 0)"));
    }
}

/// Requests that the server divides among its threads, several in flight.
#[test]
fn the_largest_requests_with_simple_and_structured_replies() {
    let s = with_volume("80MiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    for shape in ["h.set_request_structured_replies(False)", "pass"] {
        let uri = s.uri("web");
        let text = format!(
            r#"
import os
h = nbd.NBD()
{shape}
h.connect_uri("{uri}")
big = [os.urandom(32 << 20), os.urandom((9 << 20) + 511)]
places = [4096 * 3, (40 << 20) + 1]
for flags in (0, nbd.CMD_FLAG_FUA):
    left = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(d)), at, flags=flags) for d, at in zip(big, places)]
    while left:
        left = [cookie for cookie in left if not h.aio_command_completed(cookie)]
        if left:
            h.poll(-1)
for data, at in zip(big, places):
    assert h.pread(len(data), at) == data, at
h.zero(5 << 20, 8 << 20)
seen = h.pread(32 << 20, places[0])
model = bytearray(big[0])
model[(8 << 20) - places[0]:(13 << 20) - places[0]] = bytes(5 << 20)
assert seen == model
"#
        );
        script(&s, &text);
    }
}
