//! Structured replies, metadata contexts and snapshots as exports, with third-party clients.

use super::shell::{command, refused, requires_shell};
use super::*;

/// Runs a script in nbdsh on an export, with these metadata contexts requested.
#[track_caller]
fn script(s: &Scratch, export: &str, contexts: &[&str], text: &str) -> String {
    let ask: String = contexts.iter().map(|c| format!("h.add_meta_context('{c}')\n")).collect();
    let head = "def extents(context, at, n, flags=0):\n    got = []\n    def each(name, offset, entries, error):\n        \
                if name == context:\n            got.append((offset, list(zip(entries[::2], entries[1::2]))))\n    \
                h.block_status(n, at, each, flags)\n    assert len(got) == 1 and got[0][0] == at, got\n    return got[0][1]\n";
    let uri = s.uri(export);
    let script = format!("{ask}h.connect_uri('{uri}')\n{head}{text}");
    good(&mut run("/usr/bin/python3", &["-m", "nbd", "-c", &script]))
}

#[test]
fn holes_are_told_to_the_sector() {
    let s = with_volume("8MiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    let text = r#"
assert h.get_structured_replies_negotiated() and h.can_df() and h.can_meta_context("base:allocation")
assert extents("base:allocation", 0, 8 << 20) == [(8 << 20, 3)]
h.pwrite(b"x" * 4096, 12288)
h.pwrite(b"y", (5 << 20) + 100)
h.pwrite(b"z" * (1 << 20), 6 << 20)
h.zero(4096, (6 << 20) + 8192)
told = extents("base:allocation", 0, 8 << 20)
assert told == [(12288, 3), (4096, 0), ((5 << 20) - 16384, 3), (4096, 0), ((1 << 20) - 4096, 3), (8192, 0), (4096, 3),
                ((1 << 20) - 12288, 0), (1 << 20, 3)], told
# From inside, and one alone.
assert extents("base:allocation", 13000, 100) == [(100, 0)]
assert extents("base:allocation", 12288, 1 << 20, nbd.CMD_FLAG_REQ_ONE) == [(4096, 0)]
assert extents("base:allocation", 0, 4096, nbd.CMD_FLAG_REQ_ONE) == [(4096, 3)]
h.trim(8 << 20, 0)
assert extents("base:allocation", 0, 8 << 20) == [(8 << 20, 3)]
"#;
    script(&s, "web", &["base:allocation"], text);
    // Without a selected context it is an error, and the connection survives.
    let text = "import errno\nh.set_strict_mode(0)\ntry:\n    h.block_status(512, 0, lambda *a: 0)\n    assert False\n\
                except nbd.Error as e:\n    assert e.errnum in (errno.EINVAL, errno.ENOTSUP), e\nassert h.pread(1, 0) == b'\\0'";
    script(&s, "web", &[], text);
}

/// The maps printed by libnbd's and QEMU's own tools.
#[test]
fn maps_of_nbdinfo_and_qemu_img() {
    if !requires("nbdinfo") || !requires("qemu-img") {
        return;
    }
    let s = with_volume("8MiB");
    let served = s.serve();
    let mut nbd = served.connect("web");
    nbd.write(1 << 20, &noise(1, 64 << 10));
    nbd.close();
    let snap = s.id(&["snapshot", "create", "web", "--wait"]);
    let mut nbd = served.connect("web");
    nbd.write(4 << 20, &noise(2, 4096));
    nbd.close();
    // Offset, length and flags of each extent.
    let map = |context: &str, export: &str| -> Vec<(u64, u64, u64)> {
        let option = format!("--map={context}");
        let said = good(&mut run("nbdinfo", &["--json", &option, &s.uri(export)]));
        let map: serde_json::Value = serde_json::from_str(&said).unwrap();
        let number = |e: &serde_json::Value, name: &str| e[name].as_u64().unwrap();
        let extents = map.as_array().unwrap().iter();
        extents.map(|e| (number(e, "offset"), number(e, "length"), number(e, "type"))).collect()
    };
    let (mib, data, chunk) = (1u64 << 20, 64u64 << 10, 512u64 << 10);
    let holes = [(0, mib, 3), (mib, data, 0), (mib + data, 3 * mib - data, 3), (4 * mib, 4096, 0)];
    assert_eq!(map("base:allocation", "web")[..4], holes);
    assert_eq!(map("base:allocation", &snap), [(0, mib, 3), (mib, data, 0), (mib + data, 7 * mib - data, 3)]);
    let changed = [(0, 4 * mib, 0), (4 * mib, chunk, 1), (4 * mib + chunk, 4 * mib - chunk, 0)];
    assert_eq!(map("coffer:changed", "web"), changed);
    assert_eq!(map(&format!("coffer:diff:{snap}"), "web"), changed);

    let said = good(&mut run("qemu-img", &["map", "-f", "raw", "--output=json", &s.uri("web")]));
    let extents: serde_json::Value = serde_json::from_str(&said).unwrap();
    let full: Vec<_> = extents.as_array().unwrap().iter().filter(|e| e["data"] == true).collect();
    let places: Vec<_> = full.iter().map(|e| (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap())).collect();
    assert_eq!(places, [(mib, data), (4 * mib, 4096)]);
}

/// A structured READ returns holes and data; with DF one chunk. Either way the bytes are the same.
#[test]
fn reads_come_in_chunks_of_data_and_holes() {
    let s = with_volume("4MiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    let text = r#"
import random
random.seed(3)
model = bytearray(4 << 20)
for at, n in ((0, 5000), (1 << 20, 300000), ((3 << 20) + 77, 100000)):
    data = random.randbytes(n)
    h.pwrite(data, at)
    model[at:at + n] = data
def pieces(at, n, flags=0):
    got, buf = [], bytearray(n)
    def each(part, offset, status, error):
        assert error.value == 0
        got.append((offset - at, len(part), status))
        if status == nbd.READ_DATA:
            buf[offset - at:offset - at + len(part)] = part
        else:
            assert status == nbd.READ_HOLE
    back = h.pread_structured(n, at, each, flags)
    assert back == model[at:at + n] and buf == back
    return got
all = pieces(0, 4 << 20)
assert {status for _, _, status in all} == {nbd.READ_DATA, nbd.READ_HOLE}, all
assert sum(n for _, n, _ in all) == 4 << 20
assert len(pieces(0, 4 << 20, nbd.CMD_FLAG_DF)) == 1
assert pieces(2 << 20, 4096) == [(0, 4096, nbd.READ_HOLE)]
assert pieces(2 << 20, 4096, nbd.CMD_FLAG_DF) == [(0, 4096, nbd.READ_DATA)]
for _ in range(100):
    at = random.randrange(4 << 20)
    pieces(at, random.randrange(1, (4 << 20) - at + 1))
"#;
    script(&s, "web", &[], text);
}

/// Every snapshot is a context; changes have a granularity of 512 KiB, since the requested point, also for a volume
/// hydrated from one.
#[test]
fn changes_since_snapshots() {
    let s = with_volume("64MiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    let write = |volume: &str, at: u64| {
        script(&s, volume, &[], &format!("h.pwrite(b'w' * 4096, {at})\nh.flush()"));
    };
    let dirty = |export: &str, context: &str| {
        let text = format!(
            "at, out = 0, []\nwhile at < h.get_size():\n    for n, flags in extents('{context}', at, h.get_size() - at):\n        \
             if flags & 1: out.append((at, n))\n        at += n\nprint(out)"
        );
        script(&s, export, &[context], &text).trim().to_owned()
    };
    let chunks = |list: &[(u64, u64)]| {
        let all: Vec<_> = list.iter().map(|(at, n)| format!("({}, {})", at << 19, n << 19)).collect();
        format!("[{}]", all.join(", "))
    };
    write("web", 0);
    assert_eq!(dirty("web", "coffer:changed"), chunks(&[(0, 1)]), "before any snapshot: all that was written");
    let one = s.id(&["snapshot", "create", "web", "--wait"]);
    assert_eq!(dirty("web", "coffer:changed"), "[]");
    write("web", 5 << 20);
    let two = s.id(&["snapshot", "create", "web", "--wait"]);
    write("web", 32 << 20);
    assert_eq!(dirty("web", "coffer:changed"), chunks(&[(64, 1)]));
    assert_eq!(dirty("web", &format!("coffer:diff:{one}")), chunks(&[(10, 1), (64, 1)]));
    assert_eq!(dirty("web", &format!("coffer:diff:{two}")), chunks(&[(64, 1)]));
    assert_eq!(dirty(&two, "coffer:changed"), chunks(&[(10, 1)]));
    assert_eq!(dirty(&one, &format!("coffer:diff:{two}")), chunks(&[(10, 1)]));
    assert_eq!(dirty(&one, "base:allocation").matches('(').count(), 1, "one hole behind its data");

    s.ok(&["volume", "create", "--snapshot", &one, "--name", "copy"]);
    assert_eq!(dirty("copy", "coffer:changed"), "[]");
    assert_eq!(dirty("copy", &format!("coffer:diff:{two}")), chunks(&[(10, 1)]));
    write("copy", 63 << 20);
    assert_eq!(dirty("copy", "coffer:changed"), chunks(&[(126, 1)]));
    assert_eq!(dirty("copy", &format!("coffer:diff:{two}")), chunks(&[(10, 1), (126, 1)]));

    let uri = s.uri("web");
    let list = |query: &str| {
        let text =
            format!("h.set_opt_mode(True)\nh.connect_uri('{uri}')\n{query}h.opt_list_meta_context(lambda n: print(n))");
        let mut said: Vec<_> =
            good(&mut run("/usr/bin/python3", &["-m", "nbd", "-c", &text])).lines().map(str::to_owned).collect();
        said.sort();
        said
    };
    let mut diffs = vec![format!("coffer:diff:{one}"), format!("coffer:diff:{two}")];
    diffs.sort();
    assert_eq!(list("h.add_meta_context('coffer:diff:')\n"), diffs);
    assert_eq!(list("h.add_meta_context('base:')\nh.add_meta_context('x-no:')\n"), ["base:allocation"]);
    let all = [&["base:allocation".to_owned(), "coffer:changed".to_owned()][..], &diffs].concat();
    assert_eq!(list(""), all);
}

#[test]
fn a_snapshot_is_an_export_that_nobody_changes() {
    let s = with_volume("16MiB");
    let served = s.serve();
    if !requires_shell() {
        return;
    }
    script(&s, "web", &[], "import random\nrandom.seed(5)\nh.pwrite(random.randbytes(3 << 20), 777)");
    let snap = s.id(&["snapshot", "create", "web", "--wait"]);
    let mut writer = served.connect("web");
    writer.write(0, &[9; 8192]);
    let text = r#"
import errno, random
random.seed(5)
data = random.randbytes(3 << 20)
assert h.is_read_only() and not h.can_zero() and not h.can_trim() and h.can_multi_conn() and h.can_cache()
assert h.get_size() == 16 << 20
assert h.pread(3 << 20, 777) == data and h.pread(777, 0) == bytes(777)
for _ in range(50):
    at = random.randrange(3 << 20)
    n = random.randrange(1, 9000)
    assert h.pread(n, 777 + at) == (data + bytes(9000))[at:at + n]
h.cache(1 << 20, 0)
h.flush()
h.set_strict_mode(0)
for call, args in ((h.pwrite, (b"x", 0)), (h.zero, (512, 0)), (h.trim, (512, 0))):
    try:
        call(*args)
        assert False
    except nbd.Error as e:
        assert e.errnum == errno.EPERM, e
"#;
    script(&s, &snap, &["base:allocation"], text);
    // Also while a volume made from it is in use, by any number of clients; and it is not deleted while they use it.
    s.ok(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    let mut copy = served.connect("copy");
    copy.write(0, b"mine");
    let mut readers = [served.connect(&snap), served.connect(&snap)];
    for reader in &mut readers {
        assert_eq!(reader.read(0, 777), [0; 777]);
    }
    s.fails(5, &["snapshot", "delete", &snap], &[&snap, "read"]);
    refused(&s.uri("snap-00000000000000000"), &["no snapshot"]);
    readers.into_iter().for_each(Nbd::close);
    copy.close();
    s.ok(&["volume", "delete", "copy"]);
    s.ok(&["snapshot", "delete", &snap]);
    writer.close();
}

#[test]
fn a_disabled_key_closes_its_snapshots_too() {
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "2MiB", "--key", "alias/k", "--name", "web"]);
    let served = s.serve();
    let mut web = served.connect("web");
    web.write(0, b"secret");
    let snap = s.id(&["snapshot", "create", "web", "--wait"]);
    web.close();
    let mut reader = served.connect(&snap);
    assert_eq!(reader.read(0, 6), b"secret");
    s.ok(&["key", "disable", "alias/k"]);
    assert_eq!(reader.try_read(0, 6).unwrap(), Err(5));
    if requires_shell() {
        refused(&s.uri(&snap), &["disabled"]);
    }
    s.ok(&["key", "enable", "alias/k"]);
    let mut again = served.connect(&snap);
    assert_eq!(again.read(0, 6), b"secret");
}

/// An incremental backup with only qemu's tools: the first full, then what `coffer:changed` reports.
#[test]
fn qemu_img_makes_an_incremental_backup() {
    if !requires("qemu-img") || !requires("qemu-io") {
        return;
    }
    let s = with_volume("48MiB");
    let served = s.serve();
    let mut nbd = served.connect("web");
    nbd.write(1 << 20, &noise(1, 9 << 20));
    nbd.flush();
    nbd.close();
    let snap = s.id(&["snapshot", "create", "web", "--wait"]);
    let (full, inc) = (s.path("full.qcow2"), s.path("inc.qcow2"));
    let [full, inc] = [&full, &inc].map(|p| p.to_str().unwrap());
    good(&mut run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &s.uri(&snap), full]));

    let mut nbd = served.connect("web");
    nbd.write(5 << 20, &noise(2, 100_000));
    nbd.write(40 << 20, &noise(3, 1 << 20));
    nbd.flush();
    nbd.close();
    let socket = s.socket();
    let dirty = format!(
        "driver=nbd,server.type=unix,server.path={},export=web,x-dirty-bitmap=coffer:changed",
        socket.display()
    );
    let map = good(&mut run("qemu-img", &["map", "--output=json", "--image-opts", &dirty]));
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    // QEMU shows what a bitmap marks as "not data".
    let marked: Vec<_> = map.as_array().unwrap().iter().filter(|e| e["data"] == false).collect();
    assert_eq!(marked.len(), 2, "{marked:?}");
    let bytes: u64 = marked.iter().map(|e| e["length"].as_u64().unwrap()).sum();
    assert!(bytes <= 3 << 20, "{bytes} bytes are marked");
    good(&mut run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &s.uri("web"), inc]));
    for range in marked {
        let read = format!("read {} {}", range["start"], range["length"]);
        good(&mut run("qemu-io", &["-C", "-f", "qcow2", "-c", &read, inc]));
    }
    good(&mut run("qemu-img", &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", full, inc]));
    let said = good(&mut run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", inc, &s.uri("web")]));
    assert!(said.contains("identical"), "{said}");
}

/// A fast zeroing is done at once or not at all.
#[test]
fn fast_zeroing() {
    let s = with_volume("8MiB");
    let _served = s.serve();
    if !requires_shell() {
        return;
    }
    let text = r#"
import errno
assert h.can_fast_zero()
h.pwrite(b"x" * (2 << 20), 0)
h.zero(1 << 20, 0, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(2 << 20, 0) == bytes(1 << 20) + b"x" * (1 << 20)
try:
    h.zero(100, (1 << 20) + 1, nbd.CMD_FLAG_FAST_ZERO)
    assert False
except nbd.Error as e:
    assert e.errnum == errno.ENOTSUP, e
assert h.pread(200, 1 << 20) == b"x" * 200
h.zero(100, (1 << 20) + 1)
assert h.pread(102, 1 << 20) == b"x" + bytes(100) + b"x"
"#;
    script(&s, "web", &[], text);
}

/// nbdkit in between, with filters that cut requests, hide what the server can, or make it slow.
#[test]
fn nbdkit_as_a_proxy_with_its_filters() {
    if !requires("nbdkit") || !requires("nbdcopy") {
        return;
    }
    let s = with_volume("24MiB");
    let _served = s.serve();
    let image = s.path("image");
    std::fs::write(&image, [noise(1, 7 << 20), vec![0; 5 << 20], noise(2, 12 << 20)].concat()).unwrap();
    let image = image.to_str().unwrap();
    let uri = format!("uri={}", s.uri("web"));
    let through = |filters: &[&str], settings: &[&str], command: &str| {
        let all = [&["-U", "-"][..], filters, &["nbd", &uri, "shared=1"], settings, &["--run", command]].concat();
        good(&mut run("nbdkit", &all))
    };
    through(&[], &[], &format!("nbdcopy {image} \"$uri\""));
    let compare = format!("nbdcopy \"$uri\" - | cmp - {image}");
    through(&["--filter=blocksize"], &["minblock=64k", "maxdata=1M", "maxlen=2M"], &compare);
    through(&["--filter=blocksize"], &["maxdata=13k", "maxlen=13k"], &compare);
    through(&["--filter=noextents"], &[], &compare);
    through(&["--filter=delay"], &["rdelay=1ms"], &compare);
    through(&["--filter=nozero"], &[], &format!("nbdcopy {image} \"$uri\" && {compare}"));
    through(&["--filter=cow"], &[], &compare);
    // An error made up by the proxy affects only the client, and coffer continues.
    let failing =
        [&["-U", "-", "--filter=error", "nbd"][..], &[&uri, "error-pread=EIO", "error-pread-rate=100%"]].concat();
    let failing = [&failing[..], &["--run", "nbdcopy \"$uri\" null:"]].concat();
    assert_ne!(output(&mut run("nbdkit", &failing)).code, 0);
    assert!(command(&s.uri("web"), "assert len(h.pread(512, 0)) == 512").status().unwrap().success());
}
