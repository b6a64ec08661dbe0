//! Other processes, as proc_pid_stat(5) shows them.

/// Fields of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// Field 3, state: `R`, `S`, …; `Z` and `X` are ended processes.
    pub state: char,
    /// Field 22, start time: clock ticks since boot.
    pub start_time: u64,
}

impl ProcessStat {
    /// Reads the fields of process `pid`. `None`: there is no such process.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Field 2 is a name in parentheses that may itself contain spaces and parentheses, so fields are counted from the
    /// last closing one.
    fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        Some(Self { state, start_time: fields.nth(18)?.parse().ok()? })
    }

    /// Whether the process has ended, reaped by its parent or not.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_name() {
        let rest = (4..=25).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let is = Some(ProcessStat { state: 'S', start_time: 22 });
        assert_eq!(ProcessStat::parse(&format!("7 (a) b ( c) S {rest}")), is);
        for bad in ["", "7 (cut", "7 (a)", "7 (a) S 4 5", "7 (a) S 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 x"] {
            assert_eq!(ProcessStat::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_process_is_seen_to_live_and_to_end() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let stat = ProcessStat::of(pid).unwrap();
        assert!(stat.start_time > 0 && !stat.has_ended());
        child.wait().unwrap();
        assert_eq!(ProcessStat::of(pid), None);
    }
}
