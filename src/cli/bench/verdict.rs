//! The results of a comparison: medians, ratios, geometric means, and the bars that coffer sets itself.

use super::super::render;
use super::cases::{CASES, COLD, Case, Work};
use super::compare::{Comparison, Sample};
use super::load::Op;

/// Medians of one case on one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Median {
    /// Requests per second.
    pub(super) requests: f64,
    /// Bytes per second.
    pub(super) bytes: f64,
    p50: Option<f64>,
    p99: Option<f64>,
    pub(super) cpu_per_million: f64,
    cpu_per_gib: Option<f64>,
    resident: f64,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

impl Median {
    pub(super) fn of(all: &Comparison, case: &str, server: &str) -> Option<Self> {
        let here: Vec<&Sample> = all.samples.iter().filter(|s| s.case == case && s.server == server).collect();
        let over = |f: &dyn Fn(&Sample) -> Option<f64>| median(here.iter().filter_map(|s| f(s)).collect());
        Some(Self {
            requests: over(&|s| Some(s.requests))?,
            bytes: over(&|s| Some(s.bytes))?,
            p50: over(&|s| s.p50),
            p99: over(&|s| s.p99),
            cpu_per_million: over(&|s| Some(s.cpu_per_million))?,
            cpu_per_gib: over(&|s| s.cpu_per_gib),
            resident: over(&|s| Some(s.resident as f64))?,
        })
    }
}

/// Median over the rounds of coffer's value divided by the server's in the same round, which cancels what affects both.
fn ratio(all: &Comparison, case: &str, server: &str, value: impl Fn(&Sample) -> f64) -> Option<f64> {
    let find = |name: &str, round| {
        all.samples.iter().find(|s| s.case == case && s.server == name && s.round == round).map(&value)
    };
    let ratios = (1..=all.rounds).filter_map(|round| {
        let (ours, theirs) = (find("coffer", round)?, find(server, round)?);
        (theirs > 0.0 && ours > 0.0).then_some(ours / theirs)
    });
    median(ratios.collect())
}

pub(super) fn rate_ratio(all: &Comparison, case: &str, server: &str) -> Option<f64> {
    ratio(all, case, server, |s| s.requests)
}

pub(super) fn cpu_ratio(all: &Comparison, case: &str, server: &str) -> Option<f64> {
    ratio(all, case, server, |s| s.cpu_per_million)
}

/// The cases that were measured, in their order.
pub(super) fn measured(all: &Comparison) -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|c| all.samples.iter().any(|s| s.case == c.name))
}

fn geometric(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

fn counted(all: &Comparison, of: impl Fn(&str) -> Option<f64>) -> Vec<(&'static str, f64)> {
    measured(all).filter(|c| c.counts).filter_map(|c| Some((c.name, of(c.name)?))).collect()
}

/// The lowest ratio of coffer's rate to a server's with foreign clients (nbdcopy, fio): what a user would try first.
fn least_of_foreign(all: &Comparison, server: &str) -> Option<f64> {
    let foreign = measured(all).filter(|c| matches!(c.work, Work::Nbdcopy(_) | Work::Fio { .. }));
    foreign.filter_map(|c| rate_ratio(all, c.name, server)).min_by(f64::total_cmp)
}

fn mean(all: &Comparison, of: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    geometric(&counted(all, of).into_iter().map(|(_, v)| v).collect::<Vec<_>>())
}

pub(super) fn show(all: &Comparison) {
    render::line(format!("{}; Linux {}", all.machine, all.kernel));
    render::line(format!(
        "{} rounds of {} s, volumes of {} MiB; load before: {}; after: {}",
        all.rounds,
        all.seconds,
        all.size >> 20,
        all.load_before,
        all.load_after
    ));
    rates(all);
    details(all);
    means(all);
    bars(all);
}

/// Rates, and the ratio of coffer's to each server's.
fn rates(all: &Comparison) {
    render::line("");
    let header: String = all.servers.iter().map(|s| format!("{s:>18}")).collect();
    render::line(format!("{:<21}{header}", "rate"));
    for case in measured(all) {
        let cell = |server: &String| {
            let Some(m) = Median::of(all, case.name, server) else { return format!("{:>18}", "-") };
            let rate = if case.work.is_bulk() { m.bytes / 1e6 } else { m.requests };
            let ratio = (server != "coffer").then(|| rate_ratio(all, case.name, server)).flatten();
            format!("{rate:>10.0}{:>8}", ratio.map_or_else(String::new, |r| format!("x{r:.2}")))
        };
        let cells: String = all.servers.iter().map(cell).collect();
        render::line(format!("{:<21}{cells}", case.name));
    }
    render::line(
        "MB/s for requests of at least 64 KiB, otherwise requests per second; x: coffer divided by that server, median",
    );
}

/// Latency, CPU time and memory of each server.
fn details(all: &Comparison) {
    let number = |n: Option<f64>, digits: usize| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.digits$}"));
    let row = |title: &str, of: &dyn Fn(&Case, &Median) -> String| {
        render::line("");
        let header: String = all.servers.iter().map(|s| format!("{s:>20}")).collect();
        render::line(format!("{title:<21}{header}"));
        for case in measured(all) {
            let cell =
                |server: &String| Median::of(all, case.name, server).map_or_else(|| "-".to_owned(), |m| of(case, &m));
            let cells: String = all.servers.iter().map(|s| format!("{:>20}", cell(s))).collect();
            render::line(format!("{:<21}{cells}", case.name));
        }
    };
    row("p50 / p99, us", &|_, m| format!("{} / {}", number(m.p50, 0), number(m.p99, 0)));
    row("CPU-s", &|case, m| {
        if case.work.is_bulk() {
            format!("{} /GiB", number(m.cpu_per_gib, 2))
        } else {
            format!("{:.1} /M", m.cpu_per_million)
        }
    });
    row("peak resident, MiB", &|_, m| format!("{:.0}", m.resident / f64::from(1 << 20)));
}

fn means(all: &Comparison) {
    render::line("");
    render::line("geometric means over all cases, coffer divided by the server:      rate    CPU per request");
    for server in all.servers.iter().filter(|s| *s != "coffer") {
        let rate = mean(all, |case| rate_ratio(all, case, server));
        let cpu = mean(all, |case| cpu_ratio(all, case, server));
        let show = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
        render::line(format!("  {server:<60} {:>8} {:>12}", show(rate), show(cpu)));
    }
}

/// One bar: the value reached, and whether it is high enough.
fn bar(what: &str, reached: Option<f64>, least: f64) {
    if let Some(reached) = reached {
        let said = if reached >= least {
            "met".to_owned()
        } else {
            format!("missed by {:.0} %", (1.0 - reached / least) * 100.0)
        };
        render::line(format!("  {what:<66} {reached:>6.2} of {least:.2}  {said}"));
    }
}

fn bars(all: &Comparison) {
    render::line("");
    render::line("bars:");
    bar("nbdcopy and fio over unencrypted nbdkit, lowest", least_of_foreign(all, "nbdkit"), 0.5);
    bar("nbdcopy and fio over nbdkit --filter=luks, lowest", least_of_foreign(all, "nbdkit-luks"), 2.0);
    let least = if all.vaes { 1.0 } else { 0.8 };
    let plain = counted(all, |case| rate_ratio(all, case, "nbdkit"));
    let worst = plain.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    bar("rate over unencrypted nbdkit, lowest of all cases", worst.map(|w| w.1), least);
    for (case, ratio) in plain.iter().filter(|(_, r)| *r < least) {
        render::line(format!("    below: {case} {ratio:.2}"));
    }
    bar("rate over unencrypted nbdkit, geometric mean", mean(all, |c| rate_ratio(all, c, "nbdkit")), 1.5);
    bar("rate over nbdkit --filter=luks, geometric mean", mean(all, |c| rate_ratio(all, c, "nbdkit-luks")), 4.0);
    bar("rate over qemu-nbd with LUKS, geometric mean", mean(all, |c| rate_ratio(all, c, "qemu-luks")), 4.0);
    bar("rate over the floor, geometric mean", mean(all, |c| rate_ratio(all, c, "floor")), 1.0);
    bar(
        "the floor's CPU over coffer's, geometric mean",
        mean(all, |c| cpu_ratio(all, c, "floor").map(|r| 1.0 / r)),
        1.0,
    );
    let rate = |case: &str| Median::of(all, case, "coffer").map(|m| m.requests);
    let over = |a: &str, b: &str| Some(rate(a)? / rate(b)?);
    bar("random 4 KiB reads: four connections over one", over("randread 4k d8 c4", "randread 4k d32"), 1.8);
    bar("cold reads over fio's direct reads of the same file", ratio(all, COLD, "disk", |s| s.bytes), 0.9);
    bar("FUA: depth 16 over depth 1", over("fua 4k d16", "fua 4k d1"), 3.0);
    let memory = Median::of(all, "read 1m d256 c8", "coffer").map(|m| 96.0 * f64::from(1 << 20) / m.resident);
    bar("96 MiB over resident at 8 connections of 256 requests of 1 MiB", memory, 1.0);
}

/// Whether a case makes data durable: such rates depend on the disk.
pub(super) const fn is_durable(case: &Case) -> bool {
    matches!(case.work, Work::Load { op: Op::Fua | Op::WriteFlush, .. })
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
