//! The command line, with and without a server: every verb, every exit code.

mod common;

use common::*;

#[test]
fn the_main_job_without_a_server() {
    let s = Scratch::new();
    let key = s.id(&["key", "create", "--alias", "alias/web"]);
    let vol = s.id(&["volume", "create", "--size", "8MiB", "--name", "web", "--key", "alias/web"]);
    let snap = s.id(&["snapshot", "create", "web"]);
    let copy = s.id(&["volume", "create", "--snapshot", &snap, "--name", "copy"]);
    println!("{}", s.ok(&["--json", "volume", "show", "copy"]).stdout);
    println!("{}", s.ok(&["--json", "snapshot", "show", &snap]).stdout);
    println!("{}", s.ok(&["--json", "key", "show", "alias/web"]).stdout);
    println!("{}", s.ok(&["volume", "list"]).stdout);
    println!("{}", s.ok(&["doctor"]).stdout);
    println!("{key} {vol} {copy}");
}
