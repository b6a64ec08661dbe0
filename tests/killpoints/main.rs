//! Every verb, killed at every durable step: the kill-point harness (docs/reliability.md).
//!
//! The harness runs each act once to the end and once for each of its steps, ended by SIGKILL right before that step;
//! "right after" a step is "right before" the next one, for nothing durable is in between. A step is a system call that
//! changes a file or a directory of the installation, observed from outside by ptrace(2), so that none can be missed; a
//! call or a file that the harness has no name for fails its test. Then the installation is opened again and must be
//! sound ([`check`]), and the act is repeated and must have the same result as if it had never been interrupted.
//!
//! An act without an entry in [`acts::covered_by`] does not compile.

#![allow(clippy::unwrap_used, reason = "a test file: its helpers may fail the test too")]

mod acts;
mod aws;
mod check;
mod chores;
mod steps;
mod world;

use acts::{Act, Case};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::Command;
use std::time::Instant;
use steps::End;
use world::{Copy, World};

/// Passes an act as JSON to the process that is to be killed.
const ACT: &str = "COFFER_KILLPOINTS_ACT";
/// The directory it works in.
const ROOT: &str = "COFFER_KILLPOINTS_ROOT";

fn main() -> std::process::ExitCode {
    if let (Ok(act), Ok(root)) = (std::env::var(ACT), std::env::var(ROOT)) {
        return victim(&serde_json::from_str(&act).unwrap(), root.as_ref());
    }
    let mut args = Arguments::from_args();
    // A process started by another trial briefly has this one's locks.
    args.test_threads = Some(1);
    let mut trials: Vec<Trial> =
        acts::cases().into_iter().map(|case| Trial::test(case.name, move || kill_everywhere(&case))).collect();
    trials.push(Trial::test("every_verb_has_a_case", every_verb_has_a_case));
    libtest_mimic::run(&args, trials).exit_code()
}

/// The process that is killed: waits for its tracer, then acts.
fn victim(act: &Act, root: &std::path::Path) -> std::process::ExitCode {
    nix::sys::ptrace::traceme().unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).unwrap();
    match act.run(&Copy::at(root)) {
        Ok(()) => 0.into(),
        Err(err) => {
            eprintln!("{}", err.line());
            1.into()
        }
    }
}

fn every_verb_has_a_case() -> Result<(), Failed> {
    let names: Vec<&str> = acts::cases().iter().map(|c| c.name).collect();
    for name in acts::covered() {
        if !names.contains(&name.as_str()) {
            return Err(format!("no case is called {name}").into());
        }
    }
    Ok(())
}

fn run(act: &Act, copy: &Copy, kill_before: Option<usize>) -> steps::Run {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ACT, serde_json::to_string(act).unwrap()).env(ROOT, copy.root());
    steps::run(&mut command, copy.root(), kill_before)
}

fn kill_everywhere(case: &Case) -> Result<(), Failed> {
    let (began, world) = (Instant::now(), World::new());
    let copy = || {
        let copy = world.copy();
        (case.prepare)(&copy);
        copy
    };
    let whole = copy();
    let act = (case.act)(&whole);
    assert!(case.is_of(&act), "{} is the case of another verb", case.name);
    let clean = run(&act, &whole, None);
    if clean.end != End::Exited(0) {
        return Err(format!("nobody killed it, and it ended with {:?}", clean.end).into());
    }
    if matches!(act, Act::Chores { .. }) && !check::is_done(case, &whole) {
        return Err("nobody killed it, and it left its chores undone".into());
    }
    let wanted = check::shape(&whole);
    let mut point = 0;
    loop {
        let copy = copy();
        let act = (case.act)(&copy);
        let cut = run(&act, &copy, Some(point));
        let died = cut.end == End::Killed;
        let place = || format!("killed before step {point}, {}", cut.steps.get(point).map_or("none", |s| s));
        check::is_sound(case, &copy).map_err(|why| format!("{}: {why}", place()))?;
        check::do_again(case, &act, &copy).map_err(|why| format!("{}: done again: {why}", place()))?;
        check::is_sound(case, &copy).map_err(|why| format!("{}: done again: {why}", place()))?;
        let found = check::shape(&copy);
        if found != wanted {
            return Err(format!(
                "{}: done again, it is not what it should be:\n{}",
                place(),
                check::differs(&wanted, &found)
            )
            .into());
        }
        if !died {
            break;
        }
        point += 1;
    }
    println!("{}: {} points, {:.1} s", case.name, point + 1, began.elapsed().as_secs_f64());
    if std::env::var_os("COFFER_KILLPOINTS_STEPS").is_some() {
        println!("{}", clean.steps.join("\n"));
    }
    Ok(())
}
