//! Plots of a comparison: plain SVG, a bar for each case and server, simple enough to write by hand.

use super::cases::Case;
use super::compare::Comparison;
use super::verdict::{Median, is_durable, measured};
use crate::error::{IoContext, Result};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A colour for each server, in their order, coffer first; distinguishable with red-green colour blindness.
const COLOURS: [&str; 6] = ["#0b4f8a", "#e69f00", "#f0c878", "#56b4a0", "#b5dcd2", "#9a9a9a"];
const WIDTH: f64 = 1000.0;
const LEFT: f64 = 150.0;
const BAR: f64 = 9.0;
const GAP: f64 = 12.0;
const TOP: f64 = 64.0;

/// A bar's length, in any unit, and its label.
type Value<'a> = dyn Fn(&Case, &str) -> Option<(f64, String)> + 'a;

/// The values of a plot: one for each case and server, with its label.
struct Plot<'a> {
    title: &'a str,
    note: &'a str,
    cases: Vec<&'static Case>,
    value: &'a Value<'a>,
}

/// Writes the plots into a folder; returns their paths.
pub(super) fn write(all: &Comparison, dir: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).on(|| format!("create {}", dir.display()))?;
    let rate = |case: &Case, server: &str| {
        let m = Median::of(all, case.name, server)?;
        let text =
            if case.work.is_bulk() { format!("{:.0} MB/s", m.bytes / 1e6) } else { format!("{:.0}/s", m.requests) };
        Some((m.requests, text))
    };
    let cpu = |case: &Case, server: &str| {
        let m = Median::of(all, case.name, server)?;
        Some((m.cpu_per_million, format!("{:.1} us", m.cpu_per_million)))
    };
    let of = |keep: &dyn Fn(&Case) -> bool| measured(all).filter(|c| c.counts && keep(c)).collect::<Vec<_>>();
    let plots = [
        ("rate-bulk.svg", "Large requests: rate", "longer is faster", of(&|c| c.work.is_bulk()), &rate as &Value<'_>),
        (
            "rate-small.svg",
            "Small requests: rate",
            "longer is faster",
            of(&|c| !c.work.is_bulk() && !is_durable(c)),
            &rate,
        ),
        ("rate-durable.svg", "Durable writes: rate", "longer is faster", of(&is_durable), &rate),
        ("cpu.svg", "CPU time of the server per request", "shorter is better", of(&|_| true), &cpu),
    ];
    let mut made = Vec::new();
    for (file, title, note, cases, value) in plots {
        if !cases.is_empty() {
            let path = dir.join(file);
            let text = Plot { title, note, cases, value }.svg(all);
            std::fs::write(&path, text).on(|| format!("write {}", path.display()))?;
            made.push(path);
        }
    }
    Ok(made)
}

impl Plot<'_> {
    fn svg(&self, all: &Comparison) -> String {
        let group = all.servers.len() as f64 * BAR + GAP;
        let height = TOP + self.cases.len() as f64 * group + 24.0;
        let mut out = String::new();
        let mut put = |text: String| {
            let _ = writeln!(out, "{text}");
        };
        put(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"9\">"
        ));
        put(format!("<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>"));
        put(format!("<text x=\"8\" y=\"18\" font-size=\"14\" font-weight=\"bold\">{}</text>", escape(self.title)));
        let under = format!(
            "{}; each case is scaled to its longest bar; medians of {} rounds of {} s; {}",
            self.note, all.rounds, all.seconds, all.machine
        );
        put(format!("<text x=\"8\" y=\"32\" fill=\"#555555\">{}</text>", escape(&under)));
        for (i, server) in all.servers.iter().enumerate() {
            let x = 8.0 + i as f64 * 120.0;
            put(format!("<rect x=\"{x}\" y=\"42\" width=\"10\" height=\"10\" fill=\"{}\"/>", colour(i)));
            put(format!("<text x=\"{}\" y=\"51\">{}</text>", x + 14.0, escape(server)));
        }
        for (n, case) in self.cases.iter().enumerate() {
            let y = TOP + n as f64 * group;
            let values: Vec<_> = all.servers.iter().map(|s| (self.value)(case, s)).collect();
            let most = values.iter().flatten().map(|v| v.0).fold(f64::MIN_POSITIVE, f64::max);
            let middle = y + (group - GAP) / 2.0 + 3.0;
            put(format!(
                "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                escape(case.name)
            ));
            for (i, value) in values.iter().enumerate() {
                let y = y + i as f64 * BAR;
                let (length, text) = match value {
                    Some((value, text)) => (value / most * (WIDTH - LEFT - 90.0), text.as_str()),
                    None => (0.0, "not offered"),
                };
                let fill = colour(i);
                put(format!(
                    "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{}\" fill=\"{fill}\"/>",
                    BAR - 1.0
                ));
                put(format!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\" fill=\"#333333\">{}</text>",
                    LEFT + length + 4.0,
                    y + BAR - 2.0,
                    escape(text)
                ));
            }
        }
        put("</svg>".to_owned());
        out
    }
}

fn colour(i: usize) -> &'static str {
    COLOURS[i % COLOURS.len()]
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
