//! nbdinfo, nbdcopy, qemu-img, qemu-io and fio.

use super::*;

#[test]
fn nbdinfo_reads_the_facts() {
    if !requires("nbdinfo") {
        return;
    }
    let s = with_volume("12MiB");
    s.ok(&["volume", "create", "--size", "4608", "--name", "tiny"]);
    let _served = s.serve();
    let info: serde_json::Value = serde_json::from_str(&good(&mut run("nbdinfo", &["--json", &s.uri("web")]))).unwrap();
    assert_eq!(info["protocol"], "newstyle-fixed");
    let export = &info["exports"][0];
    assert_eq!(export["export-name"], "web");
    assert_eq!(export["export-size"], 12 * MIB);
    for can in
        ["can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"]
    {
        assert_eq!(export[can], true, "{can}");
    }
    for not in ["is_read_only", "is_rotational"] {
        assert_eq!(export[not], false, "{not}");
    }
    let sizes =
        ["block_size_minimum", "block_size_preferred", "block_size_maximum"].map(|f| export[f].as_u64().unwrap());
    assert_eq!(sizes, [1, 4096, 32 * MIB]);
    assert_eq!(good(&mut run("nbdinfo", &["--size", &s.uri("tiny")])).trim(), "4608");

    let list = format!("nbd+unix://?socket={}", s.socket().display());
    let list: serde_json::Value =
        serde_json::from_str(&good(&mut run("nbdinfo", &["--json", "--list", &list]))).unwrap();
    let mut names: Vec<_> =
        list["exports"].as_array().unwrap().iter().map(|e| e["export-name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["tiny", "web"]);
    bad(&mut run("nbdinfo", &[&s.uri("nope")]), &["nope"]);
}

#[test]
fn only_the_volumes_that_were_named_are_served() {
    if !requires("nbdinfo") {
        return;
    }
    let s = with_volume("1MiB");
    s.ok(&["volume", "create", "--size", "1MiB", "--name", "other"]);
    let _served = s.serve_with(&["web"]);
    good(&mut run("nbdinfo", &["--size", &s.uri("web")]));
    bad(&mut run("nbdinfo", &["--size", &s.uri("other")]), &["other"]);
    let list = format!("nbd+unix://?socket={}", s.socket().display());
    let said = good(&mut run("nbdinfo", &["--list", &list]));
    assert!(said.contains("web") && !said.contains("other"), "{said}");
}

#[test]
fn nbdcopy_in_and_out_with_four_connections() {
    if !requires("nbdcopy") {
        return;
    }
    let s = with_volume("96MiB");
    let served = s.serve();
    let (image, back) = (s.path("image"), s.path("back"));
    // Data, a hole, data that does not end at a sector, zeros.
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(96 * MIB).unwrap();
    let put = |seed, at: u64, len| std::os::unix::fs::FileExt::write_all_at(&file, &noise(seed, len), at).unwrap();
    put(1, 0, 20 << 20);
    put(2, (50 << 20) + 777, 10_000_001);
    put(3, (96 << 20) - 5, 5);
    let four = ["--connections=4", "--requests=16"];
    good(run("nbdcopy", &four).arg(&image).arg(s.uri("web")));
    good(run("nbdcopy", &four).arg(s.uri("web")).arg(&back));
    assert_eq!(hash_of(&image), hash_of(&back));
    good(run("nbdcopy", &["--flush", "--destination-is-zero"]).arg(&image).arg(s.uri("web")));
    served.kill9();
    let served = s.serve();
    assert_eq!(blake3::hash(&content(&served, 96 * MIB)).to_string(), hash_of(&image));
}

#[test]
fn qemu_img_converts_compares_and_describes() {
    if !requires("qemu-img") {
        return;
    }
    let s = with_volume("40MiB");
    let served = s.serve();
    let (image, qcow, back) = (s.path("image"), s.path("image.qcow2"), s.path("back"));
    let mut bytes = noise(4, 40 << 20);
    bytes[3 << 20..9 << 20].fill(0);
    bytes[(9 << 20) + 100..(9 << 20) + 4000].fill(0);
    std::fs::write(&image, &bytes).unwrap();
    let uri = s.uri("web");
    let qemu = |args: &[&str]| good(&mut run("qemu-img", args));
    let [image_arg, qcow_arg, back_arg] = [&image, &qcow, &back].map(|p| p.to_str().unwrap());
    qemu(&["convert", "-f", "raw", "-O", "qcow2", image_arg, qcow_arg]);
    qemu(&["convert", "-n", "-f", "qcow2", "-O", "raw", qcow_arg, &uri]);
    assert!(qemu(&["compare", "-f", "raw", "-F", "raw", image_arg, &uri]).contains("identical"));
    qemu(&["convert", "-f", "raw", "-O", "raw", &uri, back_arg]);
    assert_eq!(hash_of(&back), hash_of(&image));
    let info: serde_json::Value = serde_json::from_str(&qemu(&["info", "-f", "raw", "--output=json", &uri])).unwrap();
    assert_eq!(info["virtual-size"], 40 * MIB);
    let mut nbd = served.connect("web");
    nbd.write(30 << 20, b"another byte");
    nbd.close();
    let differs = output(&mut run("qemu-img", &["compare", "-f", "raw", "-F", "raw", image_arg, &uri]));
    assert!(differs.code == 1 && differs.stdout.contains("mismatch"), "{differs:?}");
}

#[test]
fn qemu_io_patterns_at_odd_places() {
    if !requires("qemu-io") {
        return;
    }
    let s = with_volume("16MiB");
    let served = s.serve();
    let uri = s.uri("web");
    let io = |commands: &[&str]| {
        let args: Vec<_> = commands.iter().flat_map(|c| ["-c", *c]).collect();
        output(&mut run("qemu-io", &[&["-f", "raw"], &args[..], &[&uri]].concat()))
    };
    let done = io(&[
        "write -P 0xa1 1 511",
        "write -P 0xa2 512 1",
        "write -f -P 0xa3 4095 2",
        "write -P 0xa4 524287 524290",
        "write -P 0xa5 5000000 7000001",
        "flush",
        "write -z 6000001 1000",
        "write -z -u 7000001 1000000",
        "discard 524800 4096",
        "read -P 0 0 1",
        "read -P 0xa1 1 511",
        "read -P 0xa2 512 1",
        "read -P 0 513 3582",
        "read -P 0xa3 4095 2",
        "read -P 0xa4 524287 513",
        "read -P 0 524800 4096",
        "read -P 0xa4 528896 519681",
        "read -P 0xa5 5000000 1000001",
        "read -P 0 6000001 1000",
        "read -P 0xa5 6001001 999000",
        "read -P 0 7000001 1000000",
        "read -P 0xa5 8000001 4000000",
        "read -P 0 12000001 4777215",
    ]);
    // qemu-io reports mismatches and exits with 1.
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.stdout.matches("read ").count(), 14, "{done:?}");
    assert!(!done.stdout.contains("failed"), "{done:?}");
    let wrong = io(&["read -P 0xa2 1 511"]);
    assert!(wrong.stdout.contains("Pattern verification failed"), "the check of this test is blind: {wrong:?}");
    served.kill9();
    let _served = s.serve();
    // Flushed, or with FUA (qemu-io flushes when it ends too).
    let after = io(&["read -P 0xa1 1 511", "read -P 0xa3 4095 2", "read -P 0xa5 8000001 4000000"]);
    assert!(after.code == 0 && !after.stdout.contains("failed"), "{after:?}");
}

#[test]
fn fio_verifies_random_writes() {
    if !requires("fio") {
        return;
    }
    if !good(&mut run("fio", &["--enghelp"])).contains("nbd") {
        skip("fio's nbd engine");
        return;
    }
    let s = with_volume("64MiB");
    let served = s.serve();
    let uri = format!("--uri={}", s.uri("web"));
    let name = |how: &str| format!("--name={how}");
    let job = |how: &str, more: &[&str]| {
        let all = ["--ioengine=nbd", &uri, "--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned=1", "--size=48M"];
        let rest = ["--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--randseed=11", "--output-format=json"];
        let mut command = run("fio", &[&name(how)]);
        command.args(all).args(rest).args(more).current_dir(s.path(""));
        command
    };
    let said = good(&mut job("write", &["--do_verify=1", "--fsync=64"]));
    // Some messages may precede the report.
    let report: serde_json::Value = serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap();
    let job0 = &report["jobs"][0];
    assert_eq!(job0["error"], 0);
    assert!(job0["write"]["io_bytes"].as_u64().unwrap() >= 40 * MIB, "{job0}");
    assert!(job0["read"]["io_bytes"].as_u64().unwrap() >= 40 * MIB, "nothing was verified: {job0}");
    assert_eq!(served.stop(), 0);
}
