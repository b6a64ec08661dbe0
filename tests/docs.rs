//! Runs the README's tour as written: every command succeeds and prints what the README shows, except ids and times.
//! And checks that the README mentions every verb of the program.

use std::path::Path;
use std::process::Command;

/// A `$ ` line of a console block, and the lines that it prints.
struct Step {
    command: String,
    shown: Vec<String>,
}

fn steps(readme: &str) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside && line.starts_with("$ ") {
            out.push(Step { command: line[2..].to_owned(), shown: Vec::new() });
        } else if inside {
            out.last_mut().expect("a block starts with a command").shown.push(line.to_owned());
        }
    }
    out
}

/// Words with a digit become `#`, runs of spaces become one; paths and lines that name the machine are removed.
fn masked(text: &str) -> Vec<String> {
    let about_the_machine = ["memory:", "swap:", "kernel:", "file system:"];
    let mut lines: Vec<String> = text
        .lines()
        .filter(|l| !about_the_machine.iter().any(|m| l.contains(m)))
        .map(|line| line.split_whitespace().map(mask_word).collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort(); // standard error and standard output may come in any order
    lines
}

fn mask_word(word: &str) -> String {
    if word.contains('/') && !word.starts_with("alias/") {
        return "PATH".to_owned();
    }
    if word.chars().any(|c| c.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() }
}

#[test]
fn the_tour_prints_what_the_readme_shows() {
    for tool in ["nbdcopy", "nbdinfo", "cmp"] {
        let there = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap().status.success();
        if !there {
            assert!(std::env::var_os("COFFER_NO_SKIP").is_none(), "{tool} is missing");
            println!("SKIP: {tool} is not installed");
            return;
        }
    }
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let steps = steps(&readme);
    assert!(steps.len() > 12, "the tour has its steps");
    let dir = tempfile::tempdir().unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_coffer")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    // One shell for all of it, as a reader would have; a marker line ends each step's output.
    let mut script = String::from("exec 2>&1\n");
    for step in &steps {
        script.push_str(&format!("{}\necho \"=== step ended: $?\"\n", step.command));
    }
    let out = Command::new("bash")
        .args(["-c", &script])
        .current_dir(dir.path())
        .env("PATH", path)
        .env("HOME", dir.path())
        .env_remove("COFFER_DATA")
        .output()
        .unwrap();
    let printed = String::from_utf8(out.stdout).unwrap();
    let mut rest = printed.as_str();
    for step in &steps {
        let (output, after) = rest.split_once("=== step ended: ").expect("every step ends");
        let (status, after) = after.split_once('\n').unwrap();
        assert_eq!(status, "0", "{}\n{output}", step.command);
        assert_eq!(masked(output), masked(&step.shown.join("\n")), "{}\n{output}", step.command);
        rest = after;
    }
}

#[test]
fn the_readme_names_every_verb() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let verbs = |of: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_coffer")).args(of).arg("--help").output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let list =
            text.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default().to_owned();
        list.lines()
            .filter_map(|l| l.split_whitespace().next().map(str::to_owned))
            .filter(|v| v != "help")
            .collect::<Vec<_>>()
    };
    let top = verbs(&[]);
    assert!(top.len() > 10);
    for verb in &top {
        assert!(readme.contains(&format!("`{verb}")), "README does not name `{verb}`");
        for sub in verbs(&[verb.as_str()]) {
            assert!(readme.contains(&sub), "README does not name {verb} {sub}");
        }
    }
}
