//! `snapshot diff`: asks for one part of the answer after another and prints each when it comes, so that the number of ranges
//! does not matter.

use super::ask::ask_without_key;
use crate::cli::args::Common;
use crate::cli::out::{line, note};
use crate::error::{Error, Kind, Result};
use crate::service::api::{ChangedRange, ChangesInfo, Reply};
use crate::service::operations::DiffSnapshots;
use crate::units::{ByteLen, SnapshotId};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Name or id of the snapshot to compare with
    from: String,
    /// Name or id of the snapshot whose ranges are listed; without it, what FROM has that is not zeros
    to: Option<String>,
}

/// What was printed so far.
#[derive(Default)]
struct Printed {
    ranges: u64,
    bytes: u64,
}

pub(super) fn run(common: &Common, DiffArgs { from, to }: DiffArgs) -> Result<u8> {
    let (from, to) = match to {
        Some(to) => (Some(from), to),
        None => (None, from),
    };
    let mut asked = DiffSnapshots { from, to, start: 0 };
    let mut printed = Printed::default();
    loop {
        let part = match ask_without_key(common, &asked.clone().into())? {
            Reply::Changes(part) => part,
            _ => {
                return Err(Error::new(Kind::Failed, "the server sent an unexpected reply")
                    .hint("use the same version of coffer as the server"));
            }
        };
        printed.part(common, &part, asked.start == 0);
        match part.next {
            // An answer that does not advance would be asked for again forever.
            Some(next) if next > asked.start => asked.start = next,
            _ => {
                printed.end(common, &part);
                return Ok(0);
            }
        }
    }
}

impl Printed {
    fn part(&mut self, common: &Common, part: &ChangesInfo, is_first: bool) {
        if common.json && is_first {
            line(json_head(part));
        } else if !common.quiet && is_first {
            line(format!("{:>15} {:>15}  NOW", "OFFSET", "LENGTH"));
        }
        for range in &part.ranges {
            let ChangedRange { offset, length, zero } = *range;
            if common.json {
                let comma = if self.ranges == 0 { "" } else { "," };
                line(format!("    {comma}{{\"offset\": {offset}, \"length\": {length}, \"zero\": {zero}}}"));
            } else if !common.quiet {
                line(format!("{offset:>15} {length:>15}  {}", if zero { "zeros" } else { "data" }));
            }
            self.ranges += 1;
            self.bytes += length;
        }
    }

    fn end(&self, common: &Common, part: &ChangesInfo) {
        if common.json {
            line("  ]\n}");
        } else if !common.quiet {
            let against = part.from.map_or_else(|| "nothing".to_owned(), |from| from.to_string());
            let (all, bytes) = (ByteLen(part.size), ByteLen(self.bytes));
            note(format!("coffer: {bytes} of {all} in {} ranges; {} against {against}", self.ranges, part.to));
        }
    }
}

/// The document up to its ranges, each of which becomes a line.
fn json_head(part: &ChangesInfo) -> String {
    let text = |id: Option<SnapshotId>| id.map_or_else(|| "null".to_owned(), |id| format!("\"{id}\""));
    let from_size = part.from_size.map_or_else(|| "null".to_owned(), |size| size.to_string());
    format!(
        "{{\n  \"kind\": \"snapshot-diff\",\n  \"from\": {},\n  \"to\": {},\n  \"from_size\": {from_size},\n  \"size\": {},\n  \"ranges\": [",
        text(part.from),
        text(Some(part.to)),
        part.size
    )
}
