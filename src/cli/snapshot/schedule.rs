//! `snapshot schedule`.

use super::prune::KeepArgs;
use crate::cli::args::Common;
use crate::cli::client;
use crate::cli::render::{self, facts, or_dash, table};
use crate::error::{Error, Kind, Result};
use crate::service::api::{Reply, ScheduleInfo};
use crate::service::operations::{AddSchedule, ListSchedules, PauseSchedule, RemoveSchedule, Request};
use crate::service::{Cadence, DAYS, Keep, TimeOfDay};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleVerb {
    /// Add a schedule; a server takes a snapshot each time it is due
    Add(AddArgs),
    /// List schedules, when they are due, and what became of their last runs
    List,
    /// Remove a schedule; its snapshots are kept
    Remove {
        /// Schedule id
        schedule: String,
    },
    /// Pause a schedule
    Pause {
        /// Schedule id
        schedule: String,
    },
    /// Resume a schedule; what was missed meanwhile is not made up for
    Resume {
        /// Schedule id
        schedule: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Volume (name or id)
    volume: String,
    #[command(flatten)]
    when: WhenArgs,
    #[command(flatten)]
    keep: KeepArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WhenArgs {
    /// Every so many minutes, hours or days from now, as 30m, 4h or 2d
    #[arg(long, value_name = "PERIOD", value_parser = period)]
    every: Option<u32>,
    /// Each day at this time (UTC)
    #[arg(long, value_name = "HH:MM")]
    daily: Option<String>,
    /// Each week at this time (UTC); the day is mon, tue, wed, thu, fri, sat or sun
    #[arg(long, num_args = 2, value_names = ["DAY", "HH:MM"])]
    weekly: Option<Vec<String>>,
}

/// Returns the minutes of a period.
fn period(text: &str) -> Result<u32, String> {
    let units = [('m', 1), ('h', 60), ('d', 24 * 60)];
    let found = units.iter().find_map(|(unit, minutes)| Some((text.strip_suffix(*unit)?, minutes)));
    let minutes = found.and_then(|(number, minutes)| number.parse::<u32>().ok()?.checked_mul(*minutes));
    minutes.ok_or_else(|| "not a period: use a whole number of minutes, hours or days, as 30m, 4h or 2d".to_owned())
}

impl WhenArgs {
    fn cadence(&self) -> Result<Cadence> {
        let time = |text: &String| text.parse::<TimeOfDay>();
        match (self.every, &self.daily, self.weekly.as_deref()) {
            (Some(minutes), ..) => Ok(Cadence::Every { minutes }),
            (None, Some(at), _) => Ok(Cadence::Daily { at: time(at)? }),
            (None, None, Some([day, at])) => {
                let known = DAYS.iter().position(|name| name == &day.to_lowercase());
                let day = known.ok_or_else(|| {
                    Error::new(Kind::Usage, format!("{day:?} is not a day of the week"))
                        .hint(format!("use one of {}", DAYS.join(", ")))
                })?;
                Ok(Cadence::Weekly { day: day as u8, at: time(at)? })
            }
            _ => Err(Error::new(Kind::Usage, "no time is given").hint("use --every, --daily or --weekly")),
        }
    }
}

pub(super) fn run(common: &Common, verb: ScheduleVerb) -> Result<u8> {
    let reply = client::ask(common, request(verb)?)?;
    match &reply {
        Reply::Schedule(one) if !common.json && !common.quiet => show(one),
        Reply::Schedules { schedules } if !common.json && !common.quiet => list(schedules),
        other => return Ok(render::reply(other, common)),
    }
    Ok(0)
}

fn request(verb: ScheduleVerb) -> Result<Request> {
    Ok(match verb {
        ScheduleVerb::Add(AddArgs { volume, when, keep }) => {
            let keep = Some(keep.policy()).filter(|keep| *keep != Keep::default());
            AddSchedule { volume, cadence: when.cadence()?, keep }.into()
        }
        ScheduleVerb::List => ListSchedules {}.into(),
        ScheduleVerb::Remove { schedule } => RemoveSchedule { schedule }.into(),
        ScheduleVerb::Pause { schedule } => PauseSchedule { schedule, paused: true }.into(),
        ScheduleVerb::Resume { schedule } => PauseSchedule { schedule, paused: false }.into(),
    })
}

fn volume(s: &ScheduleInfo) -> String {
    s.name.clone().unwrap_or_else(|| s.volume.to_string())
}

fn next(s: &ScheduleInfo) -> String {
    if s.paused { "paused".to_owned() } else { s.next.to_string() }
}

fn keeps(keep: Option<&Keep>) -> String {
    let Some(keep) = keep else { return "all".to_owned() };
    let numbers = [
        ("last", keep.last),
        ("hourly", keep.hourly),
        ("daily", keep.daily),
        ("weekly", keep.weekly),
        ("monthly", keep.monthly),
        ("yearly", keep.yearly),
    ];
    let numbers = numbers.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name} {n}"));
    let tags = keep.tags.iter().map(|(name, value)| match value {
        Some(value) => format!("tag {name}={value}"),
        None => format!("tag {name}"),
    });
    numbers.chain(tags).collect::<Vec<_>>().join(", ")
}

fn show(s: &ScheduleInfo) {
    facts(&[
        ("schedule", s.id.to_string()),
        ("volume", volume(s)),
        ("when", s.cadence.to_string()),
        ("keeps", keeps(s.keep.as_ref())),
        ("next", next(s)),
        ("last run", or_dash(s.ran.as_ref())),
        ("snapshot", or_dash(s.snapshot.as_ref())),
        ("error", or_dash(s.error.as_ref())),
    ]);
}

fn list(all: &[ScheduleInfo]) {
    let row = |s: &ScheduleInfo| {
        vec![
            s.id.to_string(),
            volume(s),
            s.cadence.to_string(),
            keeps(s.keep.as_ref()),
            next(s),
            or_dash(s.snapshot.as_ref()),
            or_dash(s.error.as_ref()),
        ]
    };
    table(&["schedule", "volume", "when", "keeps", "next", "last snapshot", "error"], all.iter().map(row));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_whole_numbers_with_a_unit() {
        for (text, minutes) in [("30m", 30), ("4h", 240), ("2d", 2880)] {
            assert_eq!(period(text), Ok(minutes));
        }
        for bad in ["", "5", "h", "1.5h", "-1h", "1w", "9999999999d", "4000000d"] {
            assert!(period(bad).is_err(), "{bad}");
        }
    }
}
