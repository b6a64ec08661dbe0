//! The rules of src/lib.rs that the compiler does not check: layers, `unsafe`, file sizes, no async runtime in the data
//! path. Works on the source text.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// In the order of dependency: a module imports only from its own layer and the ones before it.
const LAYERS: [&[&str]; 11] = [
    &["redact", "error", "units", "env", "sys", "file", "secret", "document", "logging", "interrupt"],
    &["cipher"],
    &["ledger"],
    &["iam"],
    &["kms"],
    &["store"],
    &["volume"],
    &["engine"],
    &["snapshot"],
    &["service"],
    &["nbd", "api", "aws", "attach", "measure", "cli", "lib", "main"],
];
const DATA_PATH: [&str; 5] = ["volume", "cipher", "store", "engine", "nbd"];
const RUNTIMES: [&str; 3] = ["tokio", "axum", "hyper"];
const LONGEST: usize = 800;
/// Maximum number of files that may import one another in a circle: a parent and its parts.
const CIRCLE: usize = 3;

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// A source file: its path below src, and its text.
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

    /// Returns the path of modules of this file from the crate's root: `["kms", "key"]` for kms/key.rs.
    fn module(&self) -> Vec<String> {
        let path = self.path.with_extension("");
        let mut parts: Vec<_> = path.iter().map(|p| p.to_str().unwrap().to_owned()).collect();
        if parts.last().is_some_and(|p| p == "mod") {
            parts.pop();
        }
        parts
    }

    /// Returns the code before its inline tests, with line numbers; comments are blanked.
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

    /// Returns each top-level module that a path in this file starts with, with its line.
    fn imports(&self) -> Vec<(usize, String)> {
        let code = self.code();
        let mut found = Vec::new();
        for (at, after) in code.match_indices("crate::").map(|(at, m)| (at, at + m.len())) {
            if !code[..at].ends_with(is_word) {
                found.extend(firsts(&code[after..]).into_iter().map(|name| (at, name)));
            }
        }
        // `super::` repeated to the depth of this file leads to the crate's root too.
        let root = "super::".repeat(self.module().len());
        for (at, _) in code.match_indices(&root) {
            if !code[..at].ends_with([':', '_']) && !code[at + root.len()..].starts_with("super::") {
                found.extend(firsts(&code[at + root.len()..]).into_iter().map(|name| (at, name)));
            }
        }
        let line = |at: usize| code[..at].matches('\n').count() + 1;
        found.into_iter().map(|(at, name)| (line(at), name)).collect()
    }

    /// Returns the modules in `all` whose items this file names, as paths from the crate's root.
    fn uses(&self, all: &BTreeSet<Vec<String>>) -> BTreeSet<Vec<String>> {
        let (code, own) = (self.code(), self.module());
        let mut found = BTreeSet::new();
        for at in (0..code.len()).filter(|at| code.is_char_boundary(*at)) {
            let begins = !code[..at].ends_with(|c| is_word(c) || c == ':');
            let Some((base, rest)) = begins.then(|| base_of(&code[at..], &own)).flatten() else { continue };
            for path in paths(rest) {
                let mut path = [&base[..], &path[..]].concat();
                while !path.is_empty() && !all.contains(&path) {
                    path.pop();
                }
                found.insert(path);
            }
        }
        // A module's own file names its children without a prefix. Re-exporting their names is not a use of them.
        for child in all.iter().filter(|m| m.split_last().is_some_and(|(_, parent)| parent == own)) {
            let name = format!("{}::", child[child.len() - 1]);
            let named = |line: &str| {
                let at = line.find(&name).filter(|at| !line[..*at].ends_with(|c| is_word(c) || c == ':'));
                at.is_some() && !line.trim_start().starts_with("pub use")
            };
            if code.lines().any(named) {
                found.insert(child.clone());
            }
        }
        found.remove(&own);
        found.remove(&Vec::new());
        found
    }

    /// Returns its imports from layers above.
    fn upward(&self) -> Vec<String> {
        let module = self.module().swap_remove(0);
        let own = rank(&module).unwrap_or_else(|| panic!("{module} is in no layer"));
        let above = |(line, name): (usize, String)| {
            // A macro or an item of lib.rs itself is not a module.
            let bad = rank(&name).is_none_or(|there| there > own);
            bad.then(|| format!("src/{}:{line}: {module} imports {name}", self.path.display()))
        };
        self.imports().into_iter().filter_map(above).collect()
    }

    /// Returns the types in this file that implement `AtRest`.
    fn vouches(&self) -> Vec<String> {
        let code = self.code();
        let after = code.match_indices("AtRest for ").map(|(at, m)| &code[at + m.len()..]);
        let names = after.map(|rest| rest.chars().take_while(|c| is_word(*c)).collect::<String>());
        names.map(|name| format!("src/{}: {name}", self.path.display())).collect()
    }

    /// Returns the lines that contain `word` as a whole word.
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

/// Returns the first name of a path, or of each path of a group in braces.
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

/// Returns where a path that begins with `crate::` or `super::` starts from, and the rest.
fn base_of<'a>(code: &'a str, own: &[String]) -> Option<(Vec<String>, &'a str)> {
    if let Some(rest) = code.strip_prefix("crate::") {
        return Some((Vec::new(), rest));
    }
    let mut base = own.to_vec();
    let mut rest = code.strip_prefix("super::")?;
    base.pop();
    while let Some(further) = rest.strip_prefix("super::") {
        base.pop();
        rest = further;
    }
    Some((base, rest))
}

/// Returns all paths of a `use`, with groups expanded: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        let (mut depth, mut begin, mut all) = (0, 0, Vec::new());
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    all.extend(paths(&group[begin..i]));
                    begin = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return all;
    }
    let name: String = text.chars().take_while(|c| is_word(*c)).collect();
    match text[name.len()..].strip_prefix("::") {
        _ if name.is_empty() => Vec::new(),
        Some(rest) => paths(rest).into_iter().map(|tail| [vec![name.clone()], tail].concat()).collect(),
        None => vec![vec![name]],
    }
}

/// Returns groups of modules that all reach one another through imports.
fn circles(uses: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<Vec<String>> {
    let reach = |from: &Vec<String>| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(next) = left.pop() {
            let further = uses.get(&next).into_iter().flatten().filter(|m| seen.insert((*m).clone()));
            left.extend(further.cloned());
        }
        seen
    };
    let reached: BTreeMap<_, _> = uses.keys().map(|m| (m, reach(m))).collect();
    let circle_of = |m: &Vec<String>| -> Vec<String> {
        reached[m].iter().filter(|o| reached.get(o).is_some_and(|r| r.contains(m))).map(|o| o.join("/")).collect()
    };
    let all: BTreeSet<_> = uses.keys().map(circle_of).filter(|c| c.len() > 1).collect();
    all.into_iter().collect()
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
    for module in ["error", "cipher", "ledger", "iam", "kms", "store", "volume", "snapshot", "service"] {
        assert!(imports.contains(module), "nobody imports {module}: this test does not see imports");
    }
}

#[test]
fn few_files_import_one_another_in_a_circle() {
    let sources = sources();
    let code: Vec<_> = sources.iter().filter(|s| !s.is_test()).collect();
    let all: BTreeSet<_> = code.iter().map(|s| s.module()).collect();
    let uses = code.iter().map(|s| (s.module(), s.uses(&all))).collect();
    let circles = circles(&uses);
    let found: Vec<_> = circles.iter().filter(|c| c.len() > CIRCLE).map(|c| c.join(" ")).collect();
    none(&found, "too many files import one another in a circle:");
    assert!(circles.iter().any(|c| c.len() > 1), "this test sees no circle at all, and there are small ones");
}

#[test]
fn unsafe_is_in_sys_and_the_cipher_alone() {
    let (allowed, others): (Vec<_>, Vec<_>) =
        sources().into_iter().partition(|s| s.path == Path::new("sys.rs") || s.path.starts_with("cipher"));
    let found: Vec<_> = others.iter().flat_map(|s| s.lines_with("unsafe")).collect();
    none(&found, "unsafe outside src/sys.rs and src/cipher/:");
    assert!(allowed.iter().any(|s| !s.lines_with("unsafe").is_empty()), "this test does not see unsafe");
}

/// Whoever adds a module here must check that it reads only what was sealed before it was stored.
#[test]
fn only_stores_and_packs_vouch_for_sealed_bytes() {
    let sources = sources();
    let found: Vec<_> = sources.iter().flat_map(Source::vouches).collect();
    assert_eq!(found, ["src/snapshot/reader.rs: OfPack", "src/store/mod.rs: OfStore"]);
    for source in &sources {
        let public = ["pub struct OfPack", "pub struct OfStore", "pub const AT_REST"];
        assert!(!public.iter().any(|p| source.code().contains(p)), "src/{}: a token is public", source.path.display());
    }
}

#[test]
fn above_the_stores_files_are_named_only_where_the_service_is_built() {
    let sources = sources();
    let (stores, above): (Vec<_>, Vec<_>) =
        sources.iter().filter(|s| !s.is_test()).partition(|s| s.path.starts_with("store"));
    let names = |s: &&Source| ["FileStore", "FileStores"].iter().any(|word| !s.lines_with(word).is_empty());
    let found: Vec<_> = above.into_iter().filter(names).map(|s| s.path.display().to_string()).collect();
    assert_eq!(found, ["service/mod.rs"]);
    assert!(stores.iter().any(names), "this test does not see the files");
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
    let files = [
        ("a/mod.rs", "pub use b::B;\nuse c::C;\n"),
        ("a/b.rs", "use super::c::{C, D};\nuse crate::{x, a::c};\n"),
        ("a/c.rs", "fn f() { super::super::a::b::g() }\n"),
        ("a/d.rs", "use super::b;\n"),
    ]
    .map(|(path, text)| Source::made_up(path, text));
    let all = files.iter().map(Source::module).collect();
    let uses = files.iter().map(|s| (s.module(), s.uses(&all))).collect();
    assert_eq!(circles(&uses), [["a/b", "a/c"]]);
    let source = Source::made_up("a.rs", "//! unsafe\n#![deny(unsafe_code)]\nlet x = unsafe { 1 }; // unsafe\n");
    assert_eq!(source.lines_with("unsafe"), ["src/a.rs:3: unsafe"]);
}
