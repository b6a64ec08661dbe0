//! What the server's memory holds of secrets: every readable mapping of the unmodified program, after the answer, after the
//! client hung up, and after the key is gone.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::scan::{Memory, Needle, needles, pieces, wait_until_gone};
use common::signed::{AccessKey, Api};
use common::*;
use openssl::encrypt::Encrypter;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Padding;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;

/// Whether this test may read another process's memory.
fn may_read() -> bool {
    rustix::process::geteuid().is_root() || skip("root, to read another process's memory")
}

/// A server with AWS's API on a loopback address, and its URL.
fn with_api<'a>(s: &'a Scratch, more: &[&str]) -> (Served<'a>, String) {
    let server = s.serve_with(&[&["--api", "127.0.0.1:0"], more].concat());
    let said =
        || s.log().split("AWS API on ").nth(1).and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
    wait_until("the server says where its API is", || said().is_some());
    (server, said().unwrap())
}

/// An access key of a user that may do everything.
fn access_key(s: &Scratch) -> AccessKey {
    let policy = s.path("all.json");
    let all = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}"#;
    std::fs::write(&policy, all).unwrap();
    s.ok(&["principal", "create", "user", "op"]);
    s.ok(&["principal", "policy", "put", "user/op", "all", policy.to_str().unwrap()]);
    let made = s.json(&["principal", "key", "create", "user/op"]);
    let text = |member: &str| made[member].as_str().unwrap().to_owned();
    AccessKey { id: text("id"), secret: text("secret"), token: None }
}

fn bytes_of(answer: &Value, member: &str) -> Vec<u8> {
    STANDARD.decode(answer[member].as_str().unwrap()).unwrap()
}

/// Material as an owner wraps it for an import.
fn wrapped(given: &Value, material: &[u8]) -> String {
    let public = PKey::public_key_from_der(&bytes_of(given, "PublicKey")).unwrap();
    let mut by = Encrypter::new(&public).unwrap();
    by.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
    by.set_rsa_oaep_md(MessageDigest::sha256()).unwrap();
    by.set_rsa_mgf1_md(MessageDigest::sha256()).unwrap();
    let mut out = vec![0; by.encrypt_len(material).unwrap()];
    let len = by.encrypt(material, &mut out).unwrap();
    STANDARD.encode(&out[..len])
}

/// Uses each verb that has plaintext in its request or its answer, on a key of its own. Returns all of that plaintext, and the
/// key whose material was imported.
fn use_every_verb(mut call: impl FnMut(&str, Value) -> Value) -> (Vec<Needle>, String) {
    let mut known = Vec::new();
    let key = call("CreateKey", json!({}))["KeyMetadata"]["KeyId"].clone();
    for (n, len) in [64, 1000, 4096].into_iter().enumerate() {
        let text = noise(70 + n as u64, len);
        let sealed = call("Encrypt", json!({"KeyId": key, "Plaintext": STANDARD.encode(&text)}));
        let opened = call("Decrypt", json!({"CiphertextBlob": sealed["CiphertextBlob"]}));
        assert_eq!(bytes_of(&opened, "Plaintext"), text);
        known.extend(pieces(&format!("plaintext of {len} bytes"), &text));
    }
    let made = call("GenerateDataKey", json!({"KeyId": key, "KeySpec": "AES_256"}));
    known.extend(pieces("a data key", &bytes_of(&made, "Plaintext")));
    for spec in ["RSA_2048", "ECC_NIST_P256"] {
        let made = call("GenerateDataKeyPair", json!({"KeyId": key, "KeyPairSpec": spec}));
        // What is before this in PKCS #8 is the same for all keys of the spec, and in the program.
        let private = bytes_of(&made, "PrivateKeyPlaintext");
        let secret = match spec {
            "RSA_2048" => private[private.len() / 2..].to_vec(),
            _ => {
                PKey::private_key_from_der(&private).unwrap().ec_key().unwrap().private_key().to_vec_padded(32).unwrap()
            }
        };
        known.extend(pieces(&format!("the private key of a pair of {spec}"), &secret));
    }
    let random = call("GenerateRandom", json!({"NumberOfBytes": 64}));
    known.extend(pieces("random bytes", &bytes_of(&random, "Plaintext")));
    let external =
        call("CreateKey", json!({"Origin": "EXTERNAL"}))["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let asked = json!({"KeyId": external, "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"});
    let given = call("GetParametersForImport", asked);
    let material = noise(79, 32);
    let import = json!({
        "KeyId": external, "ImportToken": given["ImportToken"], "EncryptedKeyMaterial": wrapped(&given, &material),
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
    });
    call("ImportKeyMaterial", import);
    call("Encrypt", json!({"KeyId": external, "Plaintext": "AAAA"}));
    known.extend(pieces("imported material", &material));
    (known, external)
}

#[test]
fn plaintext_of_requests_over_http_is_gone_after_the_answer() {
    if !may_read() {
        return;
    }
    let s = Scratch::new();
    let (server, url) = with_api(&s, &[]);
    let key = access_key(&s);
    let mut api = Api::connect(&url, &key);

    // The scan finds plaintext while it is legitimately there: in a request of which the last byte is missing.
    let id = api.kms("CreateKey", json!({"Description": "stays-in-memory-55e1"}))["KeyMetadata"]["KeyId"].clone();
    let early = noise(69, 64);
    let request = api.kms_request("Encrypt", &json!({"KeyId": id, "Plaintext": STANDARD.encode(&early)}));
    let last = request.len() - 1;
    api.send(&request[..last]);
    let early = pieces("plaintext of an unfinished request", &early);
    wait_until("the scan finds a request's plaintext", || !Memory::of(server.pid()).anywhere(&early).is_empty());
    api.send(&request[last..]);
    assert_eq!(api.answer().0, 200);

    let (mut known, external) = use_every_verb(|operation, input| api.kms(operation, input));
    known.extend(early);
    // While the client's connection is open and idle.
    wait_until_gone(server.pid(), &known, "after the answers");
    let mut last = Api::connect(&url, &key);
    last.kms("Encrypt", json!({"KeyId": id, "Plaintext": STANDARD.encode(noise(68, 4096))}));
    known.extend(pieces("plaintext of a last request", &noise(68, 4096)));
    drop((api, last));
    wait_until_gone(server.pid(), &known, "the clients hung up");

    let mut api = Api::connect(&url, &key);
    for (operation, input) in [
        ("DisableKey", json!({})),
        ("EnableKey", json!({})),
        ("DeleteImportedKeyMaterial", json!({})),
        ("ScheduleKeyDeletion", json!({"PendingWindowInDays": 7})),
    ] {
        let mut input = input;
        input["KeyId"] = external.clone().into();
        api.kms(operation, input);
        assert_eq!(Memory::of(server.pid()).anywhere(&known), [""; 0], "after {operation}");
    }
}

/// While the client's connection is open, the last records may be in buffers of rustls (docs/threat-model.md).
#[test]
fn plaintext_of_requests_over_tls_is_gone_once_the_client_hung_up() {
    if !may_read() {
        return;
    }
    let s = Scratch::new();
    let certificates = s.path("tls").to_str().unwrap().to_owned();
    s.ok(&["tls", "init", "--dir", &certificates, "--name", "localhost"]);
    let (server, url) = with_api(&s, &["--tls", &certificates]);
    assert!(url.starts_with("https://"), "{url}");
    let mut api = Api::connect(&url, &access_key(&s));
    let (known, _) = use_every_verb(|operation, input| api.kms(operation, input));
    drop(api);
    wait_until_gone(server.pid(), &known, "the client hung up");
}

#[test]
fn plaintext_of_requests_over_the_control_socket_is_gone_after_the_answer() {
    if !may_read() {
        return;
    }
    let s = Scratch::new();
    let server = s.serve();
    let (known, _) = use_every_verb(|operation, input| {
        let file = s.path("input.json");
        std::fs::write(&file, input.to_string()).unwrap();
        s.json(&["kms", operation, "--input", file.to_str().unwrap()])["output"].clone()
    });
    assert_eq!(Memory::of(server.pid()).anywhere(&known), [""; 0]);
}
#[test]
fn plaintext_of_the_key_verbs_does_not_stay_in_the_server() {
    if !may_read() {
        return;
    }
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k", "--description", "a text that stays in memory 55e1"]);
    let at = |name: &str| s.path(name).to_str().unwrap().to_owned();
    // Short and long: lines that fit into an initial buffer and lines that do not, and more than one of each kind.
    let texts: Vec<Vec<u8>> = [64, 1000, 4096].iter().enumerate().map(|(i, n)| noise(90 + i as u64, *n)).collect();
    let server = s.serve();
    for (i, text) in texts.iter().enumerate() {
        let (plain, blob) = (at(&format!("plain{i}")), at(&format!("blob{i}")));
        std::fs::write(&plain, text).unwrap();
        s.ok(&["key", "encrypt", "alias/k", "--input", &plain, "--out", &blob]);
        let back = at(&format!("back{i}"));
        s.ok(&["key", "decrypt", "--input", &blob, "--out", &back]);
        assert_eq!(std::fs::read(&back).unwrap(), *text);
    }
    let (blob, clear) = (at("dk"), at("dk.clear"));
    s.ok(&["key", "generate-data-key", "alias/k", "--bytes", "64", "--out", &blob, "--plaintext-out", &clear]);
    let mut all = needles("a data key", &std::fs::read(&clear).unwrap());
    for text in &texts {
        // Any part of it that is long enough to be recognised.
        for part in text.chunks_exact(64) {
            all.extend(needles("plaintext", part).into_iter().filter(|n| ["raw", "hex"].contains(&n.form())));
        }
    }
    // Two more verbs, so that all buffers of the earlier ones are freed.
    let shown = s.ok(&["key", "show", "alias/k"]).stdout;
    assert!(shown.contains("55e1"));
    let seen = Memory::of(server.pid());
    assert!(seen.has(b"that stays in memory 55e1"), "this test does not see the server's memory");
    assert_eq!(seen.anywhere(&all), [""; 0]);
}

/// Which pieces of a volume's key are anywhere; of a program that is not optimised only those in the pool, for its cipher
/// copies round keys to the stack of whichever thread uses it.
fn of_a_cipher(pid: u32, key: &[Needle]) -> Vec<String> {
    let is_optimised = std::env::var_os("COFFER_UNDER_TEST").is_some() || !cfg!(debug_assertions);
    let seen = Memory::of(pid);
    if is_optimised { seen.anywhere(key) } else { seen.in_the_pool(key) }
}

#[test]
fn a_volumes_key_is_in_the_pool_only_and_only_while_the_volume_is_open() {
    if !may_read() {
        return;
    }
    let s = Scratch::new();
    s.ok(&["key", "create", "--alias", "alias/k"]);
    s.ok(&["volume", "create", "--size", "8MiB", "--name", "v", "--key", "alias/k"]);
    let file = s.path("clear.key");
    s.ok(&["volume", "export-key", "v", "--out", file.to_str().unwrap()]);
    // An expanded AES key begins with the key, so these are the schedules', too.
    let key = pieces("the volume's data key", &std::fs::read(&file).unwrap());
    let server = s.serve();
    let pid = server.pid();
    let open = |when: &str| {
        let mut client = server.connect("v");
        client.write(0, &noise(1, 65536));
        client.flush();
        let seen = Memory::of(pid).in_the_pool(&key);
        assert!(!seen.is_empty(), "{when}: this test does not see the key of an open volume");
        assert_eq!(of_a_cipher(pid, &key), seen, "{when}");
        client
    };
    open("open").close();
    // It lingers for a second.
    wait_until("the key of a closed volume is gone", || of_a_cipher(pid, &key).is_empty());

    let client = open("open again");
    s.ok(&["key", "disable", "alias/k"]);
    assert_eq!(of_a_cipher(pid, &key), [""; 0], "the key is disabled");
    s.ok(&["key", "enable", "alias/k"]);
    wait_until("the volume has its key again", || !Memory::of(pid).in_the_pool(&key).is_empty());
    s.ok(&["detach", "v", "--force"]);
    wait_until("the key of a detached volume is gone", || of_a_cipher(pid, &key).is_empty());
    drop(client);
}

/// The text between an element's tags.
fn element(xml: &str, name: &str) -> String {
    let rest = xml.split(&format!("<{name}>")).nth(1).unwrap_or_else(|| panic!("no {name}: {xml}"));
    rest.split("</").next().unwrap().to_owned()
}

#[test]
fn secrets_of_access_keys_stay_in_the_pool_and_those_of_sessions_nowhere() {
    if !may_read() {
        return;
    }
    let s = Scratch::new();
    let (server, url) = with_api(&s, &[]);
    let user = access_key(&s);
    let mut api = Api::connect(&url, &user);
    let made = api.sts("Action=GetSessionToken&DurationSeconds=900");
    let [id, secret, token] = ["AccessKeyId", "SecretAccessKey", "SessionToken"].map(|name| element(&made, name));
    let mut known = pieces("a session's secret", secret.as_bytes());
    known.extend(pieces("a session's token", token.as_bytes()));
    let mut session = Api::connect(&url, &AccessKey { id, secret, token: Some(token) });
    // A request of which the last byte is missing: its headers are there.
    let request = session.kms_request("ListKeys", &json!({}));
    let last = request.len() - 1;
    session.send(&request[..last]);
    wait_until("the scan finds a token in a request", || !Memory::of(server.pid()).anywhere(&known).is_empty());
    session.send(&request[last..]);
    assert_eq!(session.answer().0, 200);
    wait_until_gone(server.pid(), &known, "the session was answered");
    api.kms("ListKeys", json!({}));
    let seen = Memory::of(server.pid());
    let key = pieces("an access key's secret", user.secret.as_bytes());
    assert!(!seen.anywhere(&key).is_empty(), "an access key in use is kept in the pool");
    assert_eq!(seen.outside_of_the_pool(&key), [""; 0]);
    drop((api, session));
    wait_until_gone(server.pid(), &known, "the session hung up");
}

#[test]
fn a_passphrase_is_gone_once_the_root_key_is_open() {
    if !may_read() {
        return;
    }
    let s = Scratch::empty();
    let words = "a passphrase of many words 8c1f27";
    let known = pieces("the passphrase", words.as_bytes());
    let out = with_passphrase(&s, words, &["init"]);
    assert_eq!(out.code, 0, "{out:?}");
    // The server stops itself after what it runs, which waits for the end of its input: until this test has looked.
    let fifo = s.path("until");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let run = format!("echo $PPID > '{0}.pid.new'; mv '{0}.pid.new' '{0}.pid'; cat '{0}'", fifo.display());
    std::thread::scope(|scope| {
        let served = scope.spawn(|| with_passphrase(&s, words, &["serve", "--run", &run]));
        let pid = s.path("until.pid");
        wait_until("the server runs", || pid.exists() || served.is_finished());
        let pid = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let left = Memory::of(pid).anywhere(&known);
        drop(std::fs::File::options().write(true).open(&fifo).unwrap());
        assert_eq!(left, [""; 0]);
        assert_eq!(served.join().unwrap().code, 0);
    });
}

#[test]
fn a_server_that_dies_leaves_no_core() {
    let s = Scratch::new();
    let server = s.serve();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    let ended = server.signalled(rustix::process::Signal::ABORT);
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(6), false));
}
