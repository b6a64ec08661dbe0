//! Measures coffer beside other NBD servers, on one disk, in alternating rounds (docs/performance.md):
//!
//! ```sh
//! cargo build --release && cargo run --release -p coffer-compare -- nbdkit,nbdkit-luks,qemu-nbd,qemu-luks,floor
//! ```

mod cases;
mod compare;
mod peers;
mod plot;
mod verdict;

use clap::Parser;
use coffer::error::{Error, IoContext, Kind, Result};
use coffer::interrupt;
use coffer::units::ByteLen;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Measure coffer beside other NBD servers
#[derive(Debug, Parser)]
#[command(name = "coffer-compare")]
struct Args {
    /// The servers, separated by commas
    #[arg(value_name = "SERVERS", value_delimiter = ',', value_enum, required_unless_present = "plot")]
    against: Vec<peers::Peer>,
    /// The coffer binary [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    coffer: Option<PathBuf>,
    /// Directory on the disk to be measured; scratch files in it are removed afterwards
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
    /// Bytes of each volume, at least 128MiB
    #[arg(long, default_value = "256MiB")]
    size: ByteLen,
    /// Seconds for each measurement, at least 0.05
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
    /// Counted rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only cases whose names contain one of these
    #[arg(long, value_name = "CASES", value_delimiter = ',')]
    only: Vec<String>,
    /// Print the samples as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Write all samples to this file, as JSON
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
    /// Measure nothing: show the samples of this file, as a table and as plots
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    plot: Option<PathBuf>,
    /// Folder for the plots, which are SVG
    #[arg(long, value_name = "DIR", requires = "plot")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let _ = writeln!(std::io::stderr(), "coffer-compare: {}", err.line());
            ExitCode::from(err.kind().exit_code())
        }
    }
}

/// Prints a line. Ignores a closed standard output.
fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn run(args: &Args) -> Result<()> {
    if let Some(file) = &args.plot {
        let comparison = compare::read(file)?;
        verdict::show(&comparison);
        if let Some(out) = &args.out {
            plot::write(&comparison, out)?.iter().for_each(|path| line(path.display()));
        }
        return Ok(());
    }
    interrupt::stop_on_signals()?;
    let scratch = args.dir.join(format!("coffer-compare-{}", std::process::id()));
    std::fs::create_dir(&scratch).on(|| format!("create {}", scratch.display()))?;
    let done = measure(args, &scratch);
    let _ = std::fs::remove_dir_all(&scratch);
    match done {
        // A signal can make anything fail.
        Err(_) if interrupt::is_asked_for() => Err(Error::new(Kind::Interrupted, "stopped")),
        done => done,
    }
}

fn measure(args: &Args, scratch: &Path) -> Result<()> {
    let size = args.size.0 >> 20 << 20;
    if size < 2 * cases::TRIM_ROOM {
        return Err(Error::new(Kind::Usage, "--size: at least 128MiB are needed"));
    }
    let time = Duration::try_from_secs_f64(args.seconds).ok().filter(|t| *t >= Duration::from_millis(50));
    let time = time.ok_or_else(|| Error::new(Kind::Usage, "--seconds: at least 0.05 are needed"))?;
    let coffer = match &args.coffer {
        Some(path) => path.clone(),
        None => std::env::current_exe().on(|| "find this program".to_owned())?.with_file_name("coffer"),
    };
    if !coffer.is_file() {
        return Err(Error::new(Kind::NotFound, format!("there is no coffer at {}", coffer.display()))
            .hint("build it: `cargo build --release`, or name it with --coffer"));
    }
    let (peers, only) = (&args.against[..], &args.only[..]);
    let plan = compare::Plan { coffer: &coffer, peers, rounds: args.rounds.max(1), time, size, only };
    let comparison = compare::run(scratch, &plan)?;
    if let Some(path) = &args.samples {
        compare::save(&comparison, path)?;
    }
    if args.json {
        line(serde_json::to_string_pretty(&comparison).unwrap_or_default());
    } else {
        verdict::show(&comparison);
    }
    Ok(())
}
