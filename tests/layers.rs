//! The rules of src/lib.rs that the compiler does not check: layers, where `unsafe` is, file sizes, no async runtime in
//! the data path. Read from the source text.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From below to above. A module imports from its own layer or from one before it.
const LAYERS: [&[&str]; 9] = [
    &["error", "units", "env", "sys", "file", "secret"],
    &["cipher"],
    &["kms"],
    &["store"],
    &["volume"],
    &["engine"],
    &["snapshot"],
    &["service"],
    &["nbd", "api", "attach", "cli", "lib", "main"],
];
const DATA_PATH: [&str; 5] = ["volume", "cipher", "store", "engine", "nbd"];
const RUNTIMES: [&str; 3] = ["tokio", "axum", "hyper"];
const LONGEST: usize = 800;

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// A source file: where it is below src, and its text.
struct Source {
    path: PathBuf,
    text: String,
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    assert!(found.len() > 50, "only {} files below {}", found.len(), root.display());
    let read = |path: PathBuf| Source {
        text: std::fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(&root).unwrap().to_owned(),
    };
    found.into_iter().map(read).collect()
}

impl Source {
    fn made_up(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.to_owned() }
    }

    fn is_test(&self) -> bool {
        let stem = self.path.file_stem().unwrap().to_str().unwrap();
        stem.ends_with("_tests") || ["testing", "test_client", "tests"].contains(&stem)
    }

    /// The modules that hold this file's code, from the crate's root: `["kms", "key"]` for kms/key.rs.
    fn module(&self) -> Vec<String> {
        let path = self.path.with_extension("");
        let mut parts: Vec<_> = path.iter().map(|p| p.to_str().unwrap().to_owned()).collect();
        if parts.last().is_some_and(|p| p == "mod") {
            parts.pop();
        }
        parts
    }

    /// The code before its inline tests, each with its line number; comments are blanks.
    fn code(&self) -> String {
        let mut code = String::new();
        let mut lines = self.text.lines().peekable();
        while let Some(line) = lines.next() {
            let tests_follow = lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
            if line == "#[cfg(test)]" && tests_follow {
                break;
            }
            let start = line.trim_start();
            code.push_str(if start.starts_with("//") { "" } else { line.split(" // ").next().unwrap() });
            code.push('\n');
        }
        code
    }

    /// Each top module of the crate that a path in this file begins in, with its line.
    fn imports(&self) -> Vec<(usize, String)> {
        let code = self.code();
        let mut found = Vec::new();
        for (at, after) in code.match_indices("crate::").map(|(at, m)| (at, at + m.len())) {
            if !code[..at].ends_with(is_word) {
                found.extend(firsts(&code[after..]).into_iter().map(|name| (at, name)));
            }
        }
        // `super::` as often as this file is deep leads to the crate's root too.
        let root = "super::".repeat(self.module().len());
        for (at, _) in code.match_indices(&root) {
            if !code[..at].ends_with([':', '_']) && !code[at + root.len()..].starts_with("super::") {
                found.extend(firsts(&code[at + root.len()..]).into_iter().map(|name| (at, name)));
            }
        }
        let line = |at: usize| code[..at].matches('\n').count() + 1;
        found.into_iter().map(|(at, name)| (line(at), name)).collect()
    }

    /// What of its imports looks upward.
    fn upward(&self) -> Vec<String> {
        let module = self.module().swap_remove(0);
        let own = rank(&module).unwrap_or_else(|| panic!("{module} is in no layer"));
        let above = |(line, name): (usize, String)| {
            // A macro or an item of lib.rs itself is no module.
            let bad = rank(&name).is_none_or(|there| there > own);
            bad.then(|| format!("src/{}:{line}: {module} imports {name}", self.path.display()))
        };
        self.imports().into_iter().filter_map(above).collect()
    }

    /// The lines that have `word` by itself.
    fn lines_with(&self, word: &str) -> Vec<String> {
        let has = |line: &str| line.split(|c| !is_word(c)).any(|w| w == word);
        let code = self.code();
        let lines = code.lines().enumerate().filter(|(_, line)| has(line));
        lines.map(|(i, _)| format!("src/{}:{}: {word}", self.path.display(), i + 1)).collect()
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// First names of a path, or of each path of a group in braces.
fn firsts(path: &str) -> Vec<String> {
    let name = |s: &str| s.trim_start().chars().take_while(|c| is_word(*c)).collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut begin) = (0, Vec::new(), 0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[begin..i]));
                begin = i + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|n| !n.is_empty());
    names
}

#[track_caller]
fn none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}\n{}", found.join("\n"));
}

#[test]
fn no_module_imports_from_a_layer_above_its_own() {
    let sources = sources();
    let code: Vec<_> = sources.iter().filter(|s| !s.is_test()).collect();
    let found: Vec<_> = code.iter().flat_map(|s| s.upward()).collect();
    none(&found, "imports that look upward (src/lib.rs has the layers):");
    let imports: BTreeSet<_> = code.iter().flat_map(|s| s.imports()).map(|(_, name)| name).collect();
    for module in ["error", "cipher", "kms", "store", "volume", "snapshot", "service"] {
        assert!(imports.contains(module), "nobody imports {module}: this test does not see imports");
    }
}

#[test]
fn unsafe_is_in_sys_and_the_cipher_alone() {
    let (allowed, others): (Vec<_>, Vec<_>) =
        sources().into_iter().partition(|s| s.path == Path::new("sys.rs") || s.path.starts_with("cipher"));
    let found: Vec<_> = others.iter().flat_map(|s| s.lines_with("unsafe")).collect();
    none(&found, "unsafe outside src/sys.rs and src/cipher/:");
    assert!(allowed.iter().any(|s| !s.lines_with("unsafe").is_empty()), "this test does not see unsafe");
}

#[test]
fn no_file_is_too_long_to_read() {
    let lengths = sources().into_iter().map(|s| (s.text.lines().count(), s.path));
    let found: Vec<_> = lengths.filter(|(n, _)| *n > LONGEST).map(|(n, p)| format!("{}: {n}", p.display())).collect();
    none(&found, "files that are too long:");
}

#[test]
fn the_data_path_knows_no_runtime() {
    let sources = sources();
    let data_path: Vec<_> = sources.iter().filter(|s| DATA_PATH.iter().any(|d| s.path.starts_with(d))).collect();
    assert!(data_path.len() > 30);
    let names = |s: &&Source| RUNTIMES.iter().flat_map(|word| s.lines_with(word)).collect::<Vec<_>>();
    none(&data_path.iter().flat_map(names).collect::<Vec<_>>(), "async runtimes in the data path:");
    assert!(sources.iter().any(|s| !s.lines_with("tokio").is_empty()), "this test does not see tokio");
}

#[test]
fn what_these_tests_look_for_they_find() {
    let upward = |path: &str, text: &str| Source::made_up(path, text).upward();
    assert_eq!(
        upward("volume/io.rs", "use crate::service::Service;\n"),
        ["src/volume/io.rs:1: volume imports service"]
    );
    assert_eq!(upward("units.rs", "fn f() {\n    crate::kms::open();\n}\n"), ["src/units.rs:2: units imports kms"]);
    let group = "use std::fs;\nuse crate::{\n    error::{Error, Kind},\n    nbd::Server,\n    units::Size,\n};\n";
    assert_eq!(upward("kms/mod.rs", group), ["src/kms/mod.rs:2: kms imports nbd"]);
    assert_eq!(upward("store/file.rs", "use super::super::volume::Volume;\n").len(), 1);
    assert_eq!(upward("store/mod.rs", "use super::volume::Volume;\n").len(), 1);
    assert_eq!(upward("store/file.rs", "use super::volume;\n"), [""; 0]);
    assert_eq!(upward("volume/io.rs", "// use crate::service\nuse crate::volume::{self, x};\n"), [""; 0]);
    assert_eq!(upward("units.rs", "x\n#[cfg(test)]\nmod tests {\n    use crate::service::X;\n}\n"), [""; 0]);
    let source = Source::made_up("a.rs", "//! unsafe\n#![deny(unsafe_code)]\nlet x = unsafe { 1 }; // unsafe\n");
    assert_eq!(source.lines_with("unsafe"), ["src/a.rs:3: unsafe"]);
}
