//! `coffer serve --api` against AWS's own clients: boto3, the AWS CLI, the SDK for JavaScript. Their scripts are in `tests/aws`;
//! `tools/setup` installs the clients.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use common::*;
use rustix::process::{Pid, Signal};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const ALL_OF_KMS: &str =
    r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}"#;

/// A file of `tests/aws`.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws").join(name)
}

/// A file with this content, beside the data directory.
fn file(s: &Scratch, name: &str, content: &str) -> String {
    let path = s.path(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Makes the users `operator` (may all), `admin` (all of the KMS), `nobody` and `caller` (nothing), and a role with all of the
/// KMS that `caller` may assume. Returns what the scripts want to know.
fn rig(s: &Scratch, endpoint: &str) -> serde_json::Value {
    let account = s.json(&["account", "list"])["accounts"][0]["id"].as_str().unwrap().to_owned();
    let policy = file(s, "kms.json", ALL_OF_KMS);
    let caller = format!("arn:aws:iam::{account}:user/caller");
    let trust = serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": caller}, "Action": "sts:AssumeRole"},
    ]});
    let mut principals = serde_json::Map::new();
    for name in ["operator", "admin", "nobody", "caller"] {
        s.ok(&["principal", "create", "user", name]);
        let key = s.json(&["principal", "key", "create", &format!("user/{name}")]);
        principals.insert(name.into(), serde_json::json!({"id": key["id"], "secret": key["secret"]}));
    }
    s.ok(&["principal", "create", "role", "worker", "--trust", &file(s, "trust.json", &trust.to_string())]);
    for who in ["user/admin", "role/worker"] {
        s.ok(&["principal", "policy", "put", who, "kms", &policy]);
    }
    let all = file(s, "all.json", &ALL_OF_KMS.replace("kms:*", "*"));
    s.ok(&["principal", "policy", "put", "user/operator", "all", &all]);
    let role = format!("arn:aws:iam::{account}:role/worker");
    serde_json::json!({"endpoint": endpoint, "account": account, "role": role, "principals": principals})
}

/// A server with AWS's API, and what the scripts want to know of it.
fn served(s: &Scratch) -> (Served<'_>, serde_json::Value) {
    let server = s.serve_with(&["--api", "127.0.0.1:0"]);
    let said =
        || s.log().split("AWS API on ").nth(1).and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
    wait_until("the server says where its API is", || said().is_some());
    let rig = rig(s, &said().unwrap());
    (server, rig)
}

/// Runs a client without any AWS configuration of this machine; it must succeed. Returns its output.
#[track_caller]
fn good(command: &mut Command) -> Output {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")]);
    command.envs([("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_MAX_ATTEMPTS", "1"), ("PYTHONDONTWRITEBYTECODE", "1")]);
    let out = output(command);
    assert_eq!(out.code, 0, "{command:?}:\n{}\n{}", out.stdout, out.stderr);
    out
}

/// Runs a Python script against a server of its own. It must run at least so many tests.
#[track_caller]
fn python(name: &str, least: u32) {
    let Some(python) = aws_client("venv/bin/python") else { return };
    let s = Scratch::new();
    let (server, rig) = served(&s);
    let rig = file(&s, "rig.json", &rig.to_string());
    let out = good(Command::new(python).arg(script(name)).env("COFFER_AWS", rig));
    let count = out.stderr.split("Ran ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert!(count >= Some(least), "{}", out.stderr);
    assert_eq!(server.stop(), 0);
    // Every request is recorded, and nothing of a secret.
    s.ok(&["audit", "verify"]);
}

#[test]
fn boto3_drives_every_operation_of_the_kms() {
    python("boto3_kms.py", 15);
}

#[test]
fn boto3_drives_sessions_and_signatures() {
    python("boto3_sts.py", 7);
}

#[test]
fn boto3_drives_the_trail_and_tags() {
    python("boto3_services.py", 5);
}

#[test]
fn the_aws_cli_does_what_people_type() {
    let Some(aws) = aws_client("venv/bin/aws") else { return };
    if !requires("openssl") {
        return;
    }
    let s = Scratch::new();
    let (_server, rig) = served(&s);
    let folder = s.path("cli");
    std::fs::create_dir(&folder).unwrap();
    let path = std::env::join_paths(
        std::iter::once(aws.parent().unwrap().to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut command = Command::new("/bin/bash");
    command
        .arg(script("awscli.sh"))
        .current_dir(folder)
        .env("PATH", path.unwrap())
        .env("ACCOUNT", text(&rig["account"]));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_ENDPOINT_URL", text(&rig["endpoint"])).env("AWS_DEFAULT_REGION", "us-east-1");
    let admin = &rig["principals"]["admin"];
    command.env("AWS_ACCESS_KEY_ID", text(&admin["id"])).env("AWS_SECRET_ACCESS_KEY", text(&admin["secret"]));
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    let out = output(&mut command);
    assert_eq!((out.code, out.stdout.trim()), (0, "ok"), "{}", out.stderr);
}

#[test]
fn the_sdk_for_javascript_does_too() {
    let Some(modules) = aws_client("node/node_modules") else { return };
    if !requires("node") {
        return;
    }
    let s = Scratch::new();
    let (_server, rig) = served(&s);
    // Node looks for modules from the script's folder upwards.
    std::os::unix::fs::symlink(modules, s.path("node_modules")).unwrap();
    std::fs::copy(script("sdk.mjs"), s.path("sdk.mjs")).unwrap();
    let out = good(Command::new("node").arg(s.path("sdk.mjs")).env("COFFER_AWS_RIG", rig.to_string()));
    assert_eq!(out.stdout.trim(), "ok", "{out:?}");
}

/// Kills a process when the test ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An ephemeral server, and the line that it prints.
fn ephemeral() -> (Ends, String) {
    let mut child = Command::new(COFFER);
    child.args(["serve", "--ephemeral", "--api", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = Ends(child.stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    (child, line)
}

/// The directory of an ephemeral server, which it has open.
fn directory_of(server: &Ends) -> PathBuf {
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.0.id())).unwrap();
    let mut paths = open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    paths.find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("coffer-ephemeral-"))).unwrap()
}

#[test]
fn an_ephemeral_server_leaves_nothing_and_removes_what_a_killed_one_left() {
    let (mut killed, _) = ephemeral();
    let left = directory_of(&killed);
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    let (mut first, _) = ephemeral();
    assert!(left.exists(), "it may be one that begins");
    good(Command::new("touch").args(["-d", "2 minutes ago"]).args([&left, &directory_of(&first)]));
    let (mut second, _) = ephemeral();
    assert!(!left.exists());
    for server in [&mut first, &mut second] {
        let dir = directory_of(server);
        assert!(dir.exists(), "it is in use");
        rustix::process::kill_process(Pid::from_child(&server.0), Signal::TERM).unwrap();
        assert!(server.0.wait().unwrap().success());
        assert!(!dir.exists());
    }
}

/// The server for test suites: no data directory, credentials that everybody knows, forgotten at a reset.
#[test]
fn an_ephemeral_server_needs_nothing_and_forgets_everything() {
    let Some(python) = aws_client("venv/bin/python") else { return };
    let (mut child, line) = ephemeral();
    let url = line.split("AWS API on ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    assert!(line.contains("account 123456789012, access key AKIAIOSFODNN7EXAMPLE"), "{line}");
    let text = format!(
        "import boto3, urllib.request\n\
         def kms(**more): return boto3.client('kms', endpoint_url='{url}', region_name='us-east-1',\n\
             aws_access_key_id='AKIAIOSFODNN7EXAMPLE', aws_secret_access_key='wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY')\n\
         key = kms().create_key()['KeyMetadata']['Arn']\n\
         assert ':123456789012:' in key, key\n\
         assert [k['KeyArn'] for k in kms().list_keys()['Keys']] == [key]\n\
         urllib.request.urlopen(urllib.request.Request('{url}/_coffer/reset', method='POST')).read()\n\
         assert kms().list_keys()['Keys'] == []\n"
    );
    good(Command::new(python).arg("-c").arg(text));
    rustix::process::kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
    assert!(child.0.wait().unwrap().success());
}
